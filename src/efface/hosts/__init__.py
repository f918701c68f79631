"""The models we edit: where their parts are, how they are loaded, and toy instances of them."""
