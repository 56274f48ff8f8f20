"""The width that the FFNs of all layers share."""
