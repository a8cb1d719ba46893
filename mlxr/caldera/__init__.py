"""CALDERA: weights in few bits with a correction of low rank, W ~ Q + L R, computed from what the layers are given."""
