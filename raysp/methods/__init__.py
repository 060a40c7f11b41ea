"""How masks are scored and how shallow branches start: the parts of the stages that a user chooses between."""
