"""Facts about each released data set, so that users need not state them: `RELEASES` has one entry for each.

`release_tables.py` and `labels.py` read the files by them. With `verified=True`, the facts were checked on the release itself.
The other releases were not available: their facts come from what `source` names, and their layouts are tested on small copies
that the tests build. A fact that no source gives is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from align_iqa_plugin.runtime.names import suggest


@dataclass(frozen=True)
class Order:
    """A release without a table of images: they are numbered generator by generator, and within each prompt by prompt.

    Attributes:
        generators, prompts, images_each: how many generators and prompts, and images of one prompt by one generator.
        image_name: format of the file names, from 0.
        score_files: the .mat file of each score column, with one score an image.
        score_variable: the name of the scores in these files.
        prompt_position: the column of the prompts in the release's table, from 0; one row a prompt.
    """

    generators: int
    prompts: int
    images_each: int
    image_name: str
    score_files: Mapping[str, str]
    score_variable: str
    prompt_position: int


@dataclass(frozen=True)
class Release:
    """Facts of a data set as its authors release it; higher scores are better in all of them.

    Attributes:
        name: as its authors write it.
        table: the file of the labels, in the folder of the release.
        test_table: the file of the official test images' labels, where `table` has those of the training images alone.
        header: the columns of the tables, whatever the case of their letters; they may have others as well.
        image_column, prompt_column: two of these; prompts are in a column `prompt` once read. None without prompts.
        score_ranges: lowest and highest value of each score column, None where it is not known; the first is the main score.
        image_folder: the folder of the images, in the folder of the release.
        images, prompts, generators: their numbers.
        licence, home: the licence of the data, where it is stated; the page to get it from.
        source: where these facts come from.
        verified: whether they were checked on the release itself.
        distinctive: whether the header alone identifies a table of this release, whatever the file's name is.
        first_image: the image of the first row, where neither header nor file name identify the release.
        file_name: regular expression of the image names, with the groups `generator` and `prompt_id` where they are in it.
        order: where generator and prompt follow from the order of the images.
        duplicates: the groups of byte-identical images, names with spaces between them.
        ipce_folds: for each of the folds that IPCE and ACL-IQA share, the last digits of `prompt_id` that are in test.
    """

    name: str
    table: str
    header: tuple[str, ...]
    image_column: str
    prompt_column: str | None
    score_ranges: Mapping[str, tuple[float, float] | None]
    image_folder: str
    images: int | None
    prompts: int | None
    generators: int | None
    licence: str | None
    home: str
    source: str
    verified: bool = False
    distinctive: bool = False
    first_image: str | None = None
    file_name: str | None = None
    order: Order | None = None
    duplicates: tuple[str, ...] = field(default=(), repr=False)
    ipce_folds: tuple[str, ...] = ()
    test_table: str | None = None

    @property
    def tables(self) -> tuple[str, ...]:
        """The files of the labels."""
        return (self.table, self.test_table) if self.test_table else (self.table,)

    @property
    def key(self) -> str:
        """The name in lower case without punctuation, as options and pyiqa write it, for example ``agiqa3k``."""
        return _key(self.name)


RELEASES = (
    Release(
        name='AGIQA-3K',
        table='data.csv',
        header=('name', 'prompt', 'adj1', 'adj2', 'style', 'mos_quality', 'std_quality', 'mos_align', 'std_align'),
        image_column='name',
        prompt_column='prompt',
        score_ranges={'mos_quality': (0.0, 5.0), 'mos_align': (0.0, 5.0)},
        image_folder='images',
        images=2982,
        prompts=300,
        generators=6,
        licence='MIT',
        home='https://github.com/lcysyzxdxc/AGIQA-3k-Database',
        source='the release; the range is that of its README',
        verified=True,
        distinctive=True,
        # a setting is between the generator and the prompt: normal, lowstep, highcorr, lowcorr
        file_name=r'(?P<generator>AttnGAN|DALLE2|glide|midjourney|sd1\.5|xl2\.2)_[a-z]+_(?P<prompt_id>\d{3})\.jpg',
        duplicates=(
            'DALLE2_normal_253.jpg glide_normal_101.jpg glide_normal_263.jpg',
            'midjourney_normal_072.jpg midjourney_normal_094.jpg',
            'midjourney_normal_120.jpg midjourney_normal_185.jpg',
            'midjourney_normal_131.jpg midjourney_normal_161.jpg',
            'midjourney_normal_141.jpg midjourney_normal_186.jpg',
            'midjourney_normal_217.jpg midjourney_normal_289.jpg',
            'midjourney_normal_231.jpg midjourney_normal_250.jpg',
            'midjourney_normal_240.jpg midjourney_normal_298.jpg',
            'midjourney_normal_269.jpg midjourney_normal_285.jpg',
        ),
        # github.com/pf0607/IPCE, Database/AGIQA-3K/1 to 10; the fourth and the fifth are the same
        ipce_folds=('16', '56', '29', '19', '19', '38', '28', '12', '79', '37'),
    ),
    Release(
        name='AGIQA-1K',
        table='AIGC_MOS_Zscore.xlsx',
        header=('Image', 'Prompt', 'MOS'),
        image_column='Image',
        prompt_column='Prompt',
        score_ranges={'MOS': None},  # its README says "normalized"; public loaders divide by 5, which proves no range
        image_folder='file',
        images=1080,
        prompts=720,  # 12 objects x 15 actions x 2 places x 2 styles, as its README lists them
        generators=2,
        licence='MIT',
        home='https://github.com/lcysyzxdxc/AGIQA-1k-Database',
        source='its README and its AIGC_all.csv (file names); public loaders (names of the columns and of the folder)',
        # object, action, place and style; deepai is Stable Diffusion 2.0, dreamStudio Stable Inpainting 1.0. Its
        # AIGC_all.csv also names dreamStudio_8_9_1_.jpg, without a style.
        file_name=r'(?P<generator>deepai|dreamStudio)_(?P<prompt_id>\d+_\d+_\d+_\d*)\.(?:jpg|png)',
    ),
    Release(
        name='AIGCIQA2023',
        table='AIGCIQA2023_Prompts.xlsx',
        header=(),
        image_column='image',
        prompt_column='prompt',
        score_ranges={'mos_quality': None, 'mos_authenticity': None, 'mos_correspondence': None},
        image_folder='Image/allimg',
        images=2400,
        prompts=100,
        generators=6,
        licence=None,
        home='https://github.com/wangjiarui153/AIGCIQA2023',
        source='its README (what mosz1 to mosz3 are) and paper (counts); three public loaders agree on the order',
        order=Order(
            # no source names the generators in their order: they are numbered from 1
            generators=6,
            prompts=100,
            images_each=4,
            image_name='{}.png',
            score_files={
                'mos_quality': 'DATA/MOS/mosz1.mat',
                'mos_authenticity': 'DATA/MOS/mosz2.mat',
                'mos_correspondence': 'DATA/MOS/mosz3.mat',
            },
            score_variable='MOSz',
            prompt_position=2,
        ),
    ),
    Release(
        name='AIGIQA-20K',
        table='info_train.csv',  # the lists of the val and test images carry no scores
        header=('name', 'prompt', 'mos'),
        image_column='name',
        prompt_column='prompt',
        score_ranges={'mos': None},
        image_folder='train',
        images=20000,
        prompts=None,
        generators=15,
        licence=None,  # reportedly Apache-2.0 on the page below, which could not be read
        home='https://www.modelscope.cn/datasets/lcysyzxdxc/AIGCQA-30K-Image',
        source='its paper, arXiv 2404.03407 (counts); public loaders (table, folder, names such as DALLE2_0000.png)',
        file_name=r'(?P<generator>.+)_\d+\.(?:png|jpg)',  # no source says whether the number is the prompt's
    ),
    Release(
        name='PKU-AIGIQA-4K',
        table='annotation.xlsx',
        header=('Text_prompt', 'Generated_image', 'MOS_q', 'MOS_a', 'MOS_c'),
        image_column='Generated_image',
        prompt_column='Text_prompt',
        score_ranges={'MOS_q': None, 'MOS_a': None, 'MOS_c': None},  # quality, authenticity, correspondence
        image_folder='All',
        images=4000,
        prompts=None,
        generators=None,
        licence=None,  # its code is under MIT; nothing is stated for the images
        home='https://github.com/jiquan123/AIGIQA4K',
        source="its paper, arXiv 2404.18409 (counts); its authors' loader (table, columns, folder)",
        distinctive=True,
    ),
    Release(
        name='LIVE-Challenge',
        table='labels.csv',
        header=('name', 'mos', 'std'),
        image_column='name',
        prompt_column=None,
        score_ranges={'mos': (0.0, 100.0)},
        image_folder='images',
        images=1162,
        prompts=0,
        generators=0,
        licence='own terms: free, with its notice',
        home='http://live.ece.utexas.edu/research/ChallengeDB/index.html',
        source='its LICENSE.txt, and a copy of 727 images with one CSV instead of the .mat files that its authors release',
        verified=True,
        first_image='533.JPG',
    ),
    Release(
        name='BIQ2021',
        table='Train (Images and MOS).csv',
        test_table='Test (Images and MOS).csv',
        header=('Image Name', 'MOS'),
        image_column='Image Name',
        prompt_column=None,
        score_ranges={'MOS': (0.0, 1.0)},
        image_folder='Images',
        images=12000,
        prompts=0,
        generators=0,
        licence=None,  # it has no licence file; the 8,000 images of subset 3 (ss03) are from Unsplash
        home='https://github.com/nisarahmedrana/BIQ2021',
        source='the release; the range is that of its README',
        verified=True,
        file_name=r'ss0[123] \(\d+\)\.(?:jpg|JPG)',  # the tables write all of them in lower case
    ),
)


def find_release(name: str) -> Release:
    """The release of this name, in any spelling of case and punctuation.

    Raises:
        ValueError: the release is unknown; the message names a similar one, or all.
    """
    for release in RELEASES:
        if release.key == _key(name):
            return release
    raise ValueError(f'unknown release {name!r}{suggest(name, [each.key for each in RELEASES])}')


def _key(name):
    return ''.join(letter for letter in name.lower() if letter.isalnum())
