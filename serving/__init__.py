"""The web page: live pictures, figures and buttons for every stream of a fleet."""
