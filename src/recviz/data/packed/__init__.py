"""Packed datasets: images in tar shards with random access, from a folder or a bucket.

Shards have WebDataset's format (one member per image and one for its label, in tar files), so other programs can read
them. Arrow files of Hugging Face's datasets were measured as an alternative (`benchmarks/input.py --only arrow`):
reading is the limit of neither. Shards add a cache of bounded size, a separate part for each process, a checksum of
each image and file, and packing that resumes.
"""
