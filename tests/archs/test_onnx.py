"""ONNX models: they score as the network does, images of any size, as many as wanted."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from align_iqa_plugin.archs.align_iqa_arch import AlignIQA
from align_iqa_plugin.archs.onnx import onnx_model
from align_iqa_plugin.archs.pretrained import create_align_iqa
from align_iqa_plugin.score.find_images import SAMPLES

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

# the last but one has a size of its own kind: in whole patches, and kept as it is
SIZES = [(200, 256), (160, 160), (100, 300), (160, 176), (33, 37)]


def scores(content, image):
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    return torch.from_numpy(session.run(None, {'image': image.numpy()})[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    'parts',
    [
        {'guide': 'none', 'injection': 'none', 'aggregation': 'stage_pool'},
        {'guide': 'saliency', 'injection': 'cgi', 'aggregation': 'msfa'},
        {'guide': 'none', 'injection': 'none', 'aggregation': 'stage_pool', 'views': 2},
        {'guide': 'saliency', 'injection': 'cgi', 'aggregation': 'msfa', 'views': 2, 'guided_views': 1},
    ],
    ids=['plain', 'guided', 'two views', 'one of two views guided'],
)
def test_a_model_takes_batches_and_images_of_any_size(parts, caplog):
    torch.manual_seed(0)
    net = AlignIQA(backbone='test_vit', backbone_weights='random', input_size=160, head='mlp', targets=2, **parts)
    for name, parameter in net.named_parameters():
        if name.endswith('gate'):  # zero before training, so that no guidance enters
            torch.nn.init.constant_(parameter, 0.3)
    for name, parameter in net.head.named_parameters():
        if name.endswith('mlp.4.weight'):
            torch.nn.init.normal_(parameter)
    net.is_trained = True
    content = onnx_model(net.eval(), {})
    assert not [line for line in caplog.messages if 'constant folding' in line]
    for count, size in enumerate(SIZES, 1):
        image = torch.rand(count, 3, *size)
        with torch.no_grad():
            assert (scores(content, image) - net(image)).abs().max() < 1e-4


@pytest.mark.slow
def test_the_packaged_model_scores_real_images_as_pyiqa_does():
    import pyiqa

    content = onnx_model(create_align_iqa(pretrained=True).eval(), {'name': 'Align-IQA'})
    metric = pyiqa.create_metric('align_iqa', device='cpu')
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    assert session.get_modelmeta().custom_metadata_map == {'name': 'Align-IQA'}
    images = [to_tensor(Image.open(path).convert('RGB')) for path in sorted(SAMPLES.glob('*.jpg'))]
    for batch in (torch.stack(images[:4]), images[4][None], images[5][None, :, :300], images[6][None, :, :, 100:333]):
        got = torch.from_numpy(session.run(None, {'image': batch.numpy()})[0])
        assert (got - metric(batch)).abs().max() < 1e-3
