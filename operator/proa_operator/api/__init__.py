"""Types and rules of the custom resource; the CRDs are generated from them."""
