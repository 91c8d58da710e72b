"""Packed datasets: images in tar shards with random access, from a folder or a bucket.

Shards have WebDataset's format (one member per image and one for its label, in tar files), so other programs can read
them. Next to them are manifest.json, with names, sizes and checksums, and an index per split with the offset of each
image.

Arrow files of Hugging Face's datasets were measured as an alternative; reading is the limit of neither. On one core
that other programs also used, 2,000 photographs of 256 pixels were read at random at 6,900 images/s from shards and
11,500 from Arrow; decoding them and cropping two views of 224 reached 240 (`benchmarks/input.py --only arrow`). Shards
add, from a bucket, a cache of bounded size and a separate part for each process, with each sample once; a checksum of
each image and file; packing that resumes; and WebDataset's format. HuggingFaceDataModule reads Arrow and Parquet where
these are not needed.
"""
