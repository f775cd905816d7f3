"""What is tried: Proa's production solver, published rivals, a clairvoyant oracle. One protocol, one file each."""
