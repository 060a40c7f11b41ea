"""What cluster.yaml needs in an AWS account, made once: a security group, two roles, and the number of an image.

Owns the rules of the firewall and the rights of the nodes. Refuses to start or stop machines: `ray up` and `ray down` do.
Contract: running it again is harmless, and brings everything to the state that the flags describe; with another `--ssh-from`,
the former address loses its access.

    python clusters/aws.py --region us-west-2 --bucket BUCKET --ssh-from 203.0.113.7/32
"""

import argparse
import ipaddress
import json
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

NAME = "raysp"
IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def one_place(text: str) -> str:
    """An IPv4 address or a network in CIDR notation, refused if it is large enough to be a mistake."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; expected an IPv4 address, or a network such as 203.0.113.0/24") from None
    if network.version != 4 or network.prefixlen < 16:
        raise argparse.ArgumentTypeError(f"{text} is not one place; expected an IPv4 address, or a network of /16 or smaller")
    return str(network)


def security_group(ec2: Any, ssh_from: str) -> str:
    """Make the group in the region's default VPC, or bring its rules up to date.

    Args:
        ec2: boto3's EC2 client.
        ssh_from: network in CIDR notation that may ssh to the nodes.

    Returns:
        The group's number.
    """
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise SystemExit("this region has no default VPC; make one with `aws ec2 create-default-vpc`")
    vpc = vpcs[0]["VpcId"]
    filters = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": [NAME]}]
    found = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    if found:
        number = found[0]["GroupId"]
        if found[0]["IpPermissions"]:
            ec2.revoke_security_group_ingress(GroupId=number, IpPermissions=found[0]["IpPermissions"])
    else:
        number = ec2.create_security_group(GroupName=NAME, VpcId=vpc, Description="raysp nodes")["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=number,
        IpPermissions=[
            {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": number}]},
            {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": ssh_from}]},
        ],
    )
    return str(number)


def roles(iam: Any, bucket: str) -> None:
    """Make the instance profiles raysp-head and raysp-worker, or bring their rights up to date.

    Args:
        iam: boto3's IAM client.
        bucket: where results go.
    """
    use_bucket: list[dict[str, Any]] = [
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}"},
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            "Resource": f"arn:aws:s3:::{bucket}/*",
        },
    ]
    worker = _profile(iam, f"{NAME}-worker", use_bucket)
    start_workers: list[dict[str, Any]] = [
        {
            "Effect": "Allow",
            "Action": ["ec2:RunInstances", "ec2:TerminateInstances", "ec2:CreateTags", "ec2:Describe*"],
            "Resource": "*",
        },
        {"Effect": "Allow", "Action": "iam:PassRole", "Resource": worker},
    ]
    _profile(iam, f"{NAME}-head", use_bucket + start_workers)
    try:  # which an account lacks until it first asks for spot instances, and the head may not make
        iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("InvalidInput", "EntityAlreadyExists"):  # both: it is there
            raise


def _profile(iam: Any, name: str, statements: list[dict[str, Any]]) -> str:
    """A role, and an instance profile of the same name that holds it. Returns the role's ARN."""
    try:
        role = iam.get_role(RoleName=name)["Role"]
    except iam.exceptions.NoSuchEntityException:
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]
    policy = {"Version": "2012-10-17", "Statement": statements}
    iam.put_role_policy(RoleName=name, PolicyName=NAME, PolicyDocument=json.dumps(policy))
    try:
        profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    except iam.exceptions.NoSuchEntityException:
        profile = iam.create_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    if not profile["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return str(role["Arn"])


def main() -> None:
    """Make all, and print what goes into cluster.yaml."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--region", required=True)
    parser.add_argument("--bucket", required=True, help="of the results; it must exist")
    parser.add_argument("--ssh-from", required=True, type=one_place, metavar="CIDR", help="your address, as the internet sees it")
    flags = parser.parse_args()
    try:
        _make_all(flags)
    except (BotoCoreError, ClientError) as error:
        raise SystemExit(f"error: {error}; check the region, the bucket, and your credentials' rights") from error


def _make_all(flags: argparse.Namespace) -> None:
    session = boto3.Session(region_name=flags.region)
    image = session.client("ssm").get_parameter(Name=IMAGE)["Parameter"]["Value"]
    group = security_group(session.client("ec2"), flags.ssh_from)
    roles(session.client("iam"), flags.bucket)
    print(f"region: {flags.region}\nImageId: &image {image}\nSecurityGroupIds: &firewall [{group}]")


if __name__ == "__main__":
    main()
