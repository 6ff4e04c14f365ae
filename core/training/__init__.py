"""Train sparse autoencoders, or take published ones; measure and compare them."""
