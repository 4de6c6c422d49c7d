"""Windows on a JAX device: streamed, or cut out of a store that lives there."""
