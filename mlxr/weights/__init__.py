"""Finding model files and reading weights from them."""
