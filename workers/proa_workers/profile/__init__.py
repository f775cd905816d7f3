"""How fast an engine is: steps of known content, timed, and a cost model fitted to them."""
