"""Each workspace is an EC2 instance of its own. Source: docs/reference/ec2.md."""

from provisioning.backends.ec2.backend import Ec2Backend
from provisioning.backends.ec2.options import Ec2Options, missing_settings

__all__ = ["Ec2Backend", "Ec2Options", "missing_settings"]
