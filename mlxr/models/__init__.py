"""mlx-lm's model definitions, made to run on pages."""
