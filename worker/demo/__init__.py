"""The whole system on one machine, for a first look: started, watched, checked and taken down."""
