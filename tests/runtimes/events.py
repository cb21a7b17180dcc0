"""Events as AWS hands them to a function.

Their shapes are those of docs.aws.amazon.com: "Lambda function URLs" (payload 2.0), "API Gateway, Lambda proxy
integrations for REST APIs" (1.0), "Using AWS Lambda with an Application Load Balancer", "Using Lambda with Amazon
EventBridge", "Amazon S3" and "Amazon SQS"; as far as they say what is asked, plus a few fields that say nothing here.
"""

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

SCHEDULED: dict[str, Any] = {
    "version": "0",
    "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "account": "123456789012",
    "time": "2026-10-08T16:53:06Z",
    "region": "eu-central-1",
    "resources": ["arn:aws:events:eu-central-1:123456789012:rule/reap"],
    "detail": {},
}
OF_OTHER_TRIGGERS: dict[str, Any] = {
    "S3": {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": {"object": {"key": "a"}}}]},
    "SQS": {"Records": [{"eventSource": "aws:sqs", "messageId": "1", "body": '{"action": "reap"}'}]},
    "another EventBridge rule": {**SCHEDULED, "source": "aws.ec2", "detail-type": "EC2 Instance State-change"},
    "nothing": {},
    "a list": [{"action": "reap"}],
    "text": "reap",
}


def function_url(
    method: str, target: str, body: bytes | None, headers: Mapping[str, str], *, binary: bool = False
) -> dict[str, Any]:
    """A function URL's, payload 2.0; `binary`: its body in base64."""
    path, _, query = target.partition("?")
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": "abc.lambda-url.eu-central-1.on.aws"} | {k.lower(): v for k, v in headers.items()},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abc",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.1"},
            "stage": "$default",
        },
        "isBase64Encoded": binary,
    }
    if query:
        event["queryStringParameters"] = dict(parse_qsl(query))
    if body is not None:
        event["body"] = base64.b64encode(body).decode() if binary else body.decode()
    return event


def rest_api(method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> dict[str, Any]:
    """API Gateway's, payload 1.0."""
    path, _, query = target.partition("?")
    given = parse_qsl(query)
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": dict(headers),
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": dict(given) or None,
        "multiValueQueryStringParameters": {name: [value] for name, value in given} or None,
        "pathParameters": {"proxy": path.lstrip("/")},
        "stageVariables": None,
        "requestContext": {"accountId": "123456789012", "httpMethod": method, "path": f"/prod{path}", "stage": "prod"},
        "body": None if body is None else body.decode(),
        "isBase64Encoded": False,
    }


def load_balancer(method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> dict[str, Any]:
    """A load balancer's, with several values for each header."""
    path, _, query = target.partition("?")
    return {
        "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:eu-central-1:1:targetgroup/e/1"}},
        "httpMethod": method,
        "path": path,
        "multiValueQueryStringParameters": {name: [value] for name, value in parse_qsl(query)},
        "multiValueHeaders": {name.lower(): [value] for name, value in headers.items()},
        "body": "" if body is None else body.decode(),
        "isBase64Encoded": False,
    }
