"""Images: the data sets that can be named, and folders of a user's own."""
