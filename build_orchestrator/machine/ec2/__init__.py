"""Machines of AWS EC2, through boto3 alone."""

from build_orchestrator.machine.ec2.provider import Ec2Provider as Ec2Provider

__all__ = ["Ec2Provider"]
