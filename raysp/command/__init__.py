"""What commands share, and the one that belongs to no other room: their list, their streams, and `raysp doctor`."""
