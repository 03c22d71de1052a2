"""What pyproject.toml cannot say: folders of the checkout that have another place once they are installed.

conf/ becomes algd/conf, and launchers/hydra_plugins the namespace hydra_plugins, where Hydra looks for plugins.
"""

from setuptools import find_packages, setup

PACKAGES = ("algd", "analysis", "launchers")
# The namespace by itself too, in whose folders Hydra looks: an editable install finds only what is listed.
PLUGINS = {"hydra_plugins": "launchers/hydra_plugins",
           "hydra_plugins.algd_launchers": "launchers/hydra_plugins/algd_launchers"}

setup(
    packages=[*find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")],
                             exclude=["launchers.hydra_plugins*"]),
              "algd.conf", *PLUGINS],
    package_dir={"algd.conf": "conf", **PLUGINS},
    package_data={"algd.conf": ["**/*.yaml"], "algd.execution.native": ["mlp.c"],
                  "analysis.report": ["page.css", "page.js", "templates/*.html"]},
)
