"""The method's arithmetic: budgets shared out, masks scored and learned, losses, starts of shallow branches."""
