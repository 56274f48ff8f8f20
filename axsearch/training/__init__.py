"""Training: fine-tuning."""
