"""The CustomResourceDefinitions, generated from the types and rules of proa_operator.api."""
