"""SecretFlow's SPU as an engine (`raysp.pi.engine`), with JAX as its front end; both come with the extra `pi`.

Nothing else in raysp knows them. The package isn't called like SPU's own, so that the two are never mistaken for each other.
"""
