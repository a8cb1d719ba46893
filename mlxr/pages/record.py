"""Constants of a page record that formats, pools and kernels share."""

RECORD_BYTES = 128   # a record's size is a multiple of this: one cache line of Apple's GPUs
