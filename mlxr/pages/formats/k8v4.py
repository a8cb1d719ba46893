"""Page format k8v4: K as q8 has it, V as q4 has it."""

SPEC = "k:q8,v:q4"
