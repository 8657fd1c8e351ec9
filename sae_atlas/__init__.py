"""SAE Atlas: a sparse autoencoder for every layer of a language model, at every training snapshot."""
