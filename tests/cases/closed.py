"""Cases of closed forms; golden numbers come from the literal loops of `tests.reference`.

``python -m tests.reference.golden`` prints them.
"""

from efface.concepts import request
from tests.cases.kinds import PISTOL, Case


def large(method, family, *, anchor="lamp", change, slow=True, **settings):
    """Makes the case of a closed form in a larger family; by default each family has one."""
    return Case(
        method=method,
        settings=settings,
        host=f"tiny_{family}",
        request=request("pistol", anchor=anchor, keep=["cat"]),
        golden={"change": change},
        seconds=20.0,
        slow=slow,
    )


def mapped(family, *, anchor="lamp", response, slow=True):
    """Makes the case of a map of rows, whose golden number is how far rows move."""
    return Case(
        method="kernel_map",
        host=f"tiny_{family}",
        request=request(PISTOL, anchor=anchor, keep=["cat"]),
        golden={"erased_response": response},
        seconds=20.0,
        slow=slow,
    )


CASES = (
    mapped("sd1", anchor=None, response=0.6195332967, slow=False),
    mapped("sd2", response=0.2335807222),
    mapped("sdxl", response=0.2983416647),
    mapped("sd3", response=0.683604459),
    mapped("flux", response=0.4425625152),
    mapped("pixart", response=0.6408680661),
    mapped("wan", response=0.248597112),
    Case(
        method="uce",
        request=request(PISTOL, keep=["cat"]),
        golden={"change": 1.339305730},
        seconds=10.0,
    ),
    Case(
        method="uce",
        settings={"target": "prompt_without_concept"},
        host="tiny_sd2",
        request=request("van gogh", kind="style", anchor="art", keep=["monet"]),
        golden={"change": 0.827677279},
        seconds=10.0,
    ),
    Case(
        method="rece",
        settings={"rounds": 2, "keep_scale": 3.0},
        request=request(PISTOL, keep=["cat"]),
        golden={"change": 1.150659173},
        seconds=10.0,
    ),
    Case(
        method="rece",
        settings={"rounds": 1, "rows": "erased", "target": "prompt_without_concept"},
        host="tiny_sd2",
        request=request(["van gogh", "monet"], kind="style", anchor="art", keep=["cat"]),
        golden={"change": 1.299235980},
        seconds=10.0,
    ),
    Case(
        method="uce",
        settings={"erase_scale": 2.0, "keep_scale": 0.3, "ridge": 0.2},
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"change": 0.976638719},
        seconds=10.0,
    ),
    Case(
        method="rece",
        settings={
            "rounds": 2,
            "hold": 0.5,
            "erase_scale": 2.0,
            "first_keep_scale": 3.0,
            "first_ridge": 0.2,
            "keep_scale": 0.3,
            "ridge": 0.05,
            "strength": 0.2,
        },
        request=request(PISTOL, keep=["cat"]),
        golden={"change": 1.233378502},
        seconds=10.0,
    ),
    Case(
        method="trce",
        settings={"keep_weight": 0.02, "ridge": 0.005},
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"change": 0.339841858},
        seconds=10.0,
    ),
    Case(
        method="realera",
        settings={"neighbours": "moments", "keep_weight": 0.3, "ridge": 0.02},
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"change": 0.208059703},
        seconds=10.0,
    ),
    Case(
        method="trce",
        request=request("pistol", anchor="lamp", keep=["cat"]),
        golden={"change": 0.272367053},
        seconds=10.0,
    ),
    Case(
        method="trce",
        host="tiny_sd2",
        request=request(["van gogh", "monet"], kind="style", anchor="art", keep=["cat"]),
        golden={"change": 0.556765917},
        seconds=10.0,
    ),
    Case(
        method="realera",
        settings={"neighbours": "moments"},
        request=request(PISTOL, keep=["cat"]),
        golden={"change": 0.392593635},
        seconds=10.0,
    ),
    large("uce", "sdxl", change=0.756317401),
    large("uce", "sd3", change=2.715040621, slow=False),
    large("uce", "flux", change=1.617330468),
    large("uce", "pixart", change=0.615895679),
    large("uce", "wan", change=0.572972239),
    large("rece", "sdxl", change=1.539126263, rounds=1),
    large("rece", "flux", change=4.324315908, slow=False, rounds=1),
    large("rece", "sd3", anchor=None, change=1.302394878, rounds=1),
    large("rece", "pixart", anchor=None, change=1.478088120, rounds=1),
    large("trce", "sdxl", change=0.164947845),
    large("trce", "sd3", change=0.473815646),
    large("trce", "flux", anchor=None, change=0.415925964),
    large("trce", "pixart", change=0.724992403, slow=False),
    large("realera", "sdxl", change=0.194160348, slow=False, neighbours="moments"),
    large("realera", "sd3", change=0.183250885, neighbours="moments"),
    large("realera", "flux", change=0.176184505, neighbours="moments"),
    large("realera", "pixart", change=0.359152829, neighbours="moments"),
)
