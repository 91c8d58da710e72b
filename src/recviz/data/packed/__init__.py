"""Packed datasets: images in tar shards that are read by place, from a folder or a bucket.

The shards are of WebDataset's format (one member per image and one for its label, in plain tar files), so that other
programs read them too. Beside them lies what tar lacks: manifest.json with names, sizes and checksums, and an index per
split of where each image is, by which any image is read alone.
"""
