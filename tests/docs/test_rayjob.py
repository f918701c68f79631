"""The example for Kubernetes has the fields of KubeRay's RayJob; efface reads its command."""

import shlex
from itertools import chain
from pathlib import Path

import pytest
import yaml

from efface.cli.shell import parse
from efface.cli.sweep import SweepOptions
from efface.cli.sweep_file import read_sweep

FILE = Path(__file__).parent.parent.parent / "docs" / "examples" / "rayjob.yaml"
TEXTS = {str: str}
POD = {
    "metadata?": {"labels?": TEXTS, "annotations?": TEXTS},
    "spec": {
        "containers": [
            {
                "name": str,
                "image": str,
                "imagePullPolicy?": str,
                "env?": [{"name": str, "value?": str, "valueFrom?": dict}],
                "envFrom?": [dict],
                "ports?": [{"name?": str, "containerPort": int}],
                "resources?": {"requests?": TEXTS, "limits?": TEXTS},
                "volumeMounts?": [{"name": str, "mountPath": str, "readOnly?": bool}],
            }
        ],
        "volumes?": [{"name": str, "configMap?": {"name": str}, "emptyDir?": dict}],
        "serviceAccountName?": str,
        "nodeSelector?": TEXTS,
        "tolerations?": [dict],
        "restartPolicy?": str,
    },
}
GROUP = {"rayStartParams": TEXTS, "template": POD}
CLUSTER = {
    "rayVersion?": str,
    "enableInTreeAutoscaling?": bool,
    "autoscalerOptions?": dict,
    "headGroupSpec": {**GROUP, "serviceType?": str, "headService?": dict, "enableIngress?": bool},
    "workerGroupSpecs?": [
        {
            **GROUP,
            "groupName": str,
            "replicas?": int,
            "minReplicas": int,
            "maxReplicas": int,
            "numOfHosts?": int,
            "scaleStrategy?": dict,
        }
    ],
    "headServiceAnnotations?": TEXTS,
    "suspend?": bool,
}
RAY_JOB = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "namespace?": str, "labels?": TEXTS},
    "spec": {
        "entrypoint": str,
        "runtimeEnvYAML?": str,
        "jobId?": str,
        "submissionMode?": str,
        "submitterPodTemplate?": POD,
        "submitterConfig?": {"backoffLimit?": int},
        "entrypointNumCpus?": float,
        "entrypointNumGpus?": float,
        "entrypointResources?": str,
        "metadata?": TEXTS,
        "clusterSelector?": TEXTS,
        "managedBy?": str,
        "deletionStrategy?": dict,
        "activeDeadlineSeconds?": int,
        "backoffLimit?": int,
        "ttlSecondsAfterFinished?": int,
        "shutdownAfterJobFinishes?": bool,
        "suspend?": bool,
        "rayClusterSpec": CLUSTER,
    },
}
"""Fields of ray.io/v1, those that may be left out with a question mark; of a pod those in use."""


def problems(value, schema, where=""):
    """Lists what is not as a schema says."""
    kind = schema if isinstance(schema, type) else type(schema)
    if type(value) is not kind:
        return [f"{where} is {value!r}, no {kind.__name__}"]
    if isinstance(schema, list):
        found = [problems(one, schema[0], f"{where}[{n}]") for n, one in enumerate(value)]
    elif schema == TEXTS:
        found = [problems(one, str, f"{where}.{name}") for name, one in value.items()]
    elif isinstance(schema, dict):
        found = [fields(value, schema, where)]
    else:
        found = []
    return [*chain.from_iterable(found)]


def fields(value, schema, where):
    known = {name.rstrip("?"): kind for name, kind in schema.items()}
    needed = {name for name in schema if not name.endswith("?")}
    found = [[f"{where}.{name} is not known" for name in value.keys() - known.keys()]]
    found += [[f"{where}.{name} is missing" for name in needed - value.keys()]]
    both = value.keys() & known.keys()
    found += [problems(value[name], known[name], f"{where}.{name}") for name in both]
    return [*chain.from_iterable(found)]


@pytest.fixture
def documents():
    return {one["kind"]: one for one in yaml.safe_load_all(FILE.read_text("utf-8"))}


def test_it_has_the_fields_of_a_ray_job_and_says_that_this_is_all_that_was_checked(documents):
    job = documents["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    assert problems(job, RAY_JOB) == []
    assert "Checked by schema only" in FILE.read_text("utf-8")


def test_the_check_finds_what_is_wrong(documents):
    spec = documents["RayJob"]["spec"]
    spec["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "8"
    spec["backofLimit"] = spec.pop("backoffLimit")
    del spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert sorted(problems(documents["RayJob"], RAY_JOB)) == [
        ".spec.backofLimit is not known",
        ".spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].image is missing",
        ".spec.rayClusterSpec.workerGroupSpecs[0].replicas is '8', no int",
    ]


def test_its_command_and_its_sweep_are_read(documents, tmp_path):
    spec = documents["RayJob"]["spec"]
    program, verb, *words = shlex.split(spec["entrypoint"])
    assert (program, verb) == ("efface", "sweep")
    options = parse(SweepOptions, words, prog="efface sweep", description="")
    assert (options.executor, options.address) == ("ray", "auto")
    workers = spec["rayClusterSpec"]["workerGroupSpecs"][0]
    processors = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert options.workers == processors * workers["maxReplicas"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (mount,), (volume,) = head["containers"][0]["volumeMounts"], head["volumes"]
    assert options.file == Path(mount["mountPath"]) / "sweep.toml"
    assert mount["name"] == volume["name"]
    assert volume["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]
    file = tmp_path / "sweep.toml"
    file.write_text(documents["ConfigMap"]["data"]["sweep.toml"])
    assert len(read_sweep(file).jobs()) == 32
