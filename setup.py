"""What pyproject.toml cannot say: folders of the checkout that have another place once they are installed.

conf/ becomes algd/conf, and launchers/hydra_plugins the namespace hydra_plugins, where Hydra looks for plugins.
"""

from setuptools import find_packages, setup

PACKAGES = ("algd", "analysis", "launchers")
PLUGINS = "launchers/hydra_plugins/algd_launchers"

setup(
    packages=[*find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")],
                             exclude=["launchers.hydra_plugins*"]),
              "algd.conf", "hydra_plugins.algd_launchers"],
    package_dir={"algd.conf": "conf", "hydra_plugins.algd_launchers": PLUGINS},
    package_data={"algd.conf": ["**/*.yaml"], "algd.execution.native": ["mlp.c"],
                  "analysis.report": ["page.css", "page.js", "templates/*.html"]},
)
