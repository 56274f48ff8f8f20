"""The modules that smaller models are made of, one file a family.

A search measures these modules and an export ships their source, so what is measured is what is
exported. A file here imports only torch, transformers and ``axsearch.kernels``, whose source an
export carries along.
"""
