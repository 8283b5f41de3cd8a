"""One module per published architecture; each exports the graph of one stage contract."""
