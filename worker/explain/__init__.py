"""Why a score is what it is: parts of a window and what each contributes. Never from attention weights."""
