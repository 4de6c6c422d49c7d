"""LocoMuJoCo trajectory files, without the package that writes them."""
