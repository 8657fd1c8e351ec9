"""The life of a base model of ours: trained from scratch, tuned with an adapter, merged; one kind of folder for all."""
