"""Packed datasets: images in tar shards that are read by place, from a folder or a bucket.

The shards are of WebDataset's format (one member per image and one for its label, in plain tar files), so that other
programs read them too. Beside them lies what tar lacks: manifest.json with names, sizes and checksums, and an index per
split of where each image is, by which any image is read alone.

Why not the Arrow files of Hugging Face's datasets: reading is the limit of neither. On one core that other programs
used too, 2,000 photographs of 256 pixels were read at random at 6,900 a second from shards and 11,500 from Arrow;
decoding them and cutting two views of 224 gave 240 (`benchmarks/input.py --only arrow`). What shards add: from a
bucket, a cache of bounded size, and each process reads its own part, each sample once; a checksum of each image and
file; a packing that goes on where it was stopped; and WebDataset reads the files too. HuggingFaceDataModule reads Arrow
and Parquet, where these are not needed.
"""
