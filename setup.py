"""Lets an editable install copy the files under `options.data_files`, as a plain one does; all else is in setup.cfg."""

from setuptools import Distribution, setup


class DistributionWithData(Distribution):
    # by this name setuptools' editable_wheel asks whether there are data files to be installed
    has_data = Distribution.has_data_files


setup(distclass=DistributionWithData)
