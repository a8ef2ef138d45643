"""The pages that everybody may see: the documentation, the models on offer, the status, and the API's description."""
