"""Why a rig does not answer."""
