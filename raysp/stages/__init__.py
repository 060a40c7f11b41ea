"""One module per stage of the method: its configuration and its function. None of them imports Ray."""
