"""Attribution of predictions to atoms, tokens and descriptors."""
