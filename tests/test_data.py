import json
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from fsd_sdpose import data
from fsd_sdpose.annotations import LSP_KEYPOINTS, convert_lspet, read_image, read_lsp_joints
from fsd_sdpose.crops import (
    Augmentation,
    apply_matrix,
    box_to_center_scale,
    crop_matrix,
    invert_matrix,
    random_crop,
)
from fsd_sdpose.data import (
    EpochSampler,
    PoseDataset,
    crop_geometry,
    load_image,
    make_loader,
    make_sample,
    sample_rng,
    to_input,
    warp_rect,
)
from fsd_sdpose.evaluation import evaluate
from fsd_sdpose.skeletons import COCO, CROWDPOSE, SKELETONS, Skeleton

SAMPLES = {'coco_sample': ('test_coco.json', 17), 'crowdpose_sample': ('test_crowdpose.json', 14),
           'ochuman_sample': ('test_ochuman.json', 17)}


def _folder(variable):
    if variable not in os.environ:
        pytest.skip(f'{variable} is not set: reference material is elsewhere')
    return Path(os.environ[variable])


@pytest.fixture
def real():
    return _folder('FSD_DATA')


@pytest.fixture
def reference():
    return _folder('FSD_REFERENCE')


def _person(ann_id, image_id, box, k=17, **change):
    x, y, w, h = box
    rng = np.random.default_rng(ann_id)
    kp = np.column_stack([rng.uniform(x, x + w, k), rng.uniform(y, y + h, k), np.full(k, 2)])
    return dict(id=ann_id, image_id=image_id, category_id=1, iscrowd=0, bbox=list(box), area=w * h / 2,
                num_keypoints=k, keypoints=kp.ravel().tolist()) | change


@pytest.fixture
def toy(tmp_path):
    "Six images of noise, ten people: (annotation file, image folder, its content)."
    rng, root = np.random.default_rng(0), tmp_path / 'images'
    root.mkdir()
    images, anns = [], []
    for n in range(1, 7):
        h, w = 80 + 20 * n, 220 - 20 * n
        picture = cv2.GaussianBlur(rng.integers(0, 255, (h, w, 3), np.uint8), (0, 0), 2)
        cv2.imwrite(str(root / f'{n}.jpg'), picture)
        images.append(dict(id=n, file_name=f'{n}.jpg', width=w, height=h))
        for m in range(1 + n % 2):
            anns.append(_person(10 * n + m, n, (10 + 20 * m, 5, w / 2, h * .8)))
    content = dict(images=images, annotations=anns,
                   categories=[dict(id=1, name='person', keypoints=list(COCO.keypoints))])
    return _write(tmp_path / 'person.json', content), root, content


def _write(path, content):
    path.write_text(json.dumps(content))
    return path


def _same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)


# ---- geometry

def test_parity_matrices(reference):
    d = np.load(reference / 'parity/decode.npz')
    for row, matrix in zip(d['affine_in_bbox_rot_center_scale'], d['affine_mats'], strict=True):
        center, scale = box_to_center_scale(row[:4])
        np.testing.assert_allclose([*center, *scale], row[5:], atol=1e-6)
        np.testing.assert_allclose(crop_matrix(center, scale, row[4]), matrix, atol=2e-5)
        corners = np.array([[0, 0], [640, 0], [640, 480.]])
        ours, theirs = (apply_matrix(m, corners) for m in (crop_matrix(center, scale, row[4]), matrix))
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_parity_warp(reference):
    "The released bilinear warp of a smooth 640x480 picture, box 1 turned by 30 degrees."
    d = np.load(reference / 'parity/decode.npz')
    picture = cv2.resize(d['warp_src_small'], None, fx=8, fy=8, interpolation=cv2.INTER_LINEAR)
    spec = d['affine_in_bbox_rot_center_scale'][1]
    matrix = crop_matrix(*box_to_center_scale(spec[:4]), spec[4])
    x0, y0 = 5, 10  # from a rectangle that begins here, as crops are made
    for origin, pixels in {(0, 0): picture, (x0, y0): picture[y0:, x0:]}.items():
        out = cv2.cvtColor(warp_rect(pixels, origin, matrix, (256, 192)), cv2.COLOR_RGB2BGR)
        difference = out[128].astype(int) - d['warp_out_row128']
        inside = apply_matrix(invert_matrix(matrix), np.array([[x, 128] for x in range(192)]))[:, 0] > x0 + 1
        assert np.abs(difference[inside]).max() <= 1
    out = cv2.cvtColor(warp_rect(picture, (0, 0), matrix, (256, 192)), cv2.COLOR_RGB2BGR)
    assert np.abs(out.sum((0, 1)) - d['warp_out_sum']).max() < 192 * 256 * .01


@pytest.mark.parametrize('box', [(10, 20, 100, 300), (50.5, 60.25, 400, 120), (0, 0, 3, 4)])
def test_closed_form(box):
    x, y, w, h = box
    center, scale = box_to_center_scale(box)
    points = np.random.default_rng(0).uniform(0, 500, (50, 2))
    k = 192 / (1.25 * max(w, .75 * h))
    np.testing.assert_allclose(apply_matrix(crop_matrix(center, scale), points),
                               (points - [x + w / 2, y + h / 2]) * k + [96, 128], atol=1e-9)


@pytest.mark.parametrize('augment', [None, Augmentation()])
def test_rectangle_holds_all_that_a_crop_sees(toy, augment):
    "Warping from the rectangle is warping from the image, up to one grey level of rounding."
    ds = PoseDataset(*toy[:2], augment=augment)
    for epoch in range(8):
        for i in range(len(ds)):
            m, _ = crop_geometry(ds, i, sample_rng(0, epoch, i))
            whole = cv2.cvtColor(cv2.warpAffine(load_image(ds, ds.people.image[i]), m, (192, 256)), cv2.COLOR_BGR2RGB)
            difference = np.abs(make_sample(ds, i, epoch)['image'].numpy().astype(int) - whole)
            assert difference.max() <= 1


def test_pixels_and_joints_share_the_matrix(tmp_path):
    "A bright dot drawn at a joint is found at the joint in every augmented crop."
    image, joint = np.zeros((200, 150, 3), np.uint8), (70, 90)
    cv2.circle(image, joint, 3, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / '1.png'), image)
    kp = [0, 0, 0] * COCO.index('left_wrist') + [*joint, 2]
    kp += [0, 0, 0] * (17 - len(kp) // 3)
    path = _write(tmp_path / 'a.json', dict(
        images=[dict(id=1, file_name='1.png', width=150, height=200)],
        annotations=[_person(1, 1, (40, 50, 60, 90), keypoints=kp, num_keypoints=1)],
        categories=[dict(id=1, name='person', keypoints=list(COCO.keypoints))]))
    ds, mirrored = PoseDataset(path, tmp_path, augment=Augmentation(shift=.05)), 0
    for epoch in range(40):
        s = make_sample(ds, 0, epoch)
        k = int(s['visible'].argmax())
        mirrored += k == COCO.index('right_wrist')
        y, x = np.nonzero(s['image'][..., 0].numpy() > 127)
        np.testing.assert_allclose([x.mean(), y.mean()], s['joints'][k], atol=.25)
        np.testing.assert_allclose(apply_matrix(s['matrix'].numpy(), s['joints'][k].numpy()), joint, atol=1e-2)
    assert 8 < mirrored < 32


# ---- augmentation

def test_augmentation_rates():
    "The frequencies of the recipe, over 20,000 draws."
    rng, center, scale = np.random.default_rng(0), np.array([50., 60.]), np.array([.75, 1.])
    halves = np.array([[1000., 0.], [2000., 0.]]), np.ones((2, 2)), np.array([8, 6])
    draws = [random_crop(rng, Augmentation(), center, scale, halves) for _ in range(20_000)]
    x = np.array([d[0][0] for d in draws])
    half = x > 500
    assert abs(half.mean() - .3) < .01
    assert abs((x[half] == 1000).mean() - .69) < .02
    assert abs((x[~half] != 50).mean() - .3) < .02
    assert np.abs(x[~half] - 50).max() <= .16 * 150
    angle = np.array([d[2] for d in draws])
    assert abs((angle != 0).mean() - .6) < .01 and np.abs(angle).max() == 90
    assert abs(np.median(np.abs(angle[angle != 0])) - .6745 * 45) < 1
    factor = np.array([d[1][0] for d in draws])[~half] / .75
    assert np.isclose([factor.min(), factor.max()], [.65, 1.35]).all()
    assert abs(np.mean([d[3] for d in draws]) - .5) < .01


def test_half_body_needs_enough_joints():
    halves = np.array([[1000., 0.], [2000., 0.]]), np.ones((2, 2)), np.array([5, 3])
    rng, args = np.random.default_rng(0), (np.array([50., 60.]), np.array([.75, 1.]))
    a = Augmentation(half_body=1, shift_prob=0)
    assert all(random_crop(rng, a, *args, halves)[0][0] == 50 for _ in range(50))
    only_upper = (*halves[:2], np.array([9, 0]))
    assert all(random_crop(rng, a, *args, only_upper)[0][0] == 1000 for _ in range(50))


def test_no_augmentation_is_the_plain_crop(toy):
    off = Augmentation(flip=0, half_body=0, shift_prob=0, scale=0, rotation_prob=0)
    plain, none = PoseDataset(*toy[:2]), PoseDataset(*toy[:2], augment=off)
    for a, b in zip(plain, none, strict=True):
        assert all(torch.equal(a[k], b[k]) for k in ('joints', 'visible', 'matrix'))
        assert (a['image'].int() - b['image'].int()).abs().max() <= 1


def test_one_setting_does_not_disturb_another(toy):
    a, b = (PoseDataset(*toy[:2], augment=Augmentation(**c, rotation=0)) for c in (dict(flip=0), dict(flip=1)))
    for i in range(len(a)):
        (x, _), (y, _) = (crop_geometry(d, i, sample_rng(0, 0, i)) for d in (a, b))
        np.testing.assert_allclose(np.array([[-1], [1]]) * x + [[0, 0, 192], [0, 0, 0]], y)


# ---- order and randomness

def test_samples_depend_on_seed_epoch_and_index_only(toy):
    ds = PoseDataset(*toy[:2], augment=Augmentation(), seed=5)
    backwards = {i: ds[i] for i in reversed(range(len(ds)))}
    assert all(_same(ds[i], backwards[i]) for i in range(len(ds)))
    assert not torch.equal(PoseDataset(*toy[:2], augment=Augmentation(), seed=6)[0]['matrix'], ds[0]['matrix'])
    ds.set_epoch(1)
    assert not torch.equal(backwards[0]['matrix'], ds[0]['matrix'])
    assert _same(ds[-1], ds[len(ds) - 1])
    with pytest.raises(IndexError):
        ds[len(ds)]


def test_workers_change_nothing_even_when_they_live_on(toy):
    ds, runs = PoseDataset(*toy[:2], augment=Augmentation()), {}
    for workers in (0, 2):
        loader, runs[workers] = make_loader(ds, 4, shuffle=True, seed=7, workers=workers), []
        for epoch in (0, 1, 2):
            ds.set_epoch(epoch)
            runs[workers] += list(loader)
    assert len(runs[0]) == len(runs[2]) == 9
    assert all(_same(a, b) for a, b in zip(runs[0], runs[2], strict=True))
    first, second = ([i for b in runs[0][j:j + 3] for i in b['index'].tolist()] for j in (0, 3))
    assert first != second and sorted(first) == sorted(second) == list(range(len(ds)))


def test_loading_leaves_torchs_random_state_alone(toy):
    loader = make_loader(PoseDataset(*toy[:2], augment=Augmentation()), 4, shuffle=True)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize('world', [2, 3, 4])
def test_processes_share_the_samples(toy, world):
    ds = PoseDataset(*toy[:2])
    whole = list(EpochSampler(ds, True, 3))
    shares = [list(EpochSampler(ds, True, 3, rank, world)) for rank in range(world)]
    assert sorted(sum(shares, [])) == sorted(whole)
    even = [EpochSampler(ds, True, 3, rank, world, even=True) for rank in range(world)]
    assert {len(list(s)) for s in even} == {len(s) for s in even} == {len(whole) // world}
    with pytest.raises(ValueError, match='rank 2 of 2'):
        EpochSampler(ds, rank=2, world_size=2)


def test_drop_last(toy):
    assert [len(b['index']) for b in make_loader(PoseDataset(*toy[:2]), 4)] == [4, 4, 1]
    assert [len(b['index']) for b in make_loader(PoseDataset(*toy[:2]), 4, drop_last=True)] == [4, 4]


def test_to_input(toy):
    batch = next(iter(make_loader(PoseDataset(*toy[:2]), 3)))
    x, mean, std = to_input(batch['image']), torch.tensor([.485, .456, .406]), torch.tensor([.229, .224, .225])
    expected = ((batch['image'].float() / 255 - mean) / std).permute(0, 3, 1, 2)
    assert x.dtype == torch.float32 and x.is_contiguous()
    torch.testing.assert_close(x, expected, atol=2e-6, rtol=1e-5)


# ---- bad files

def _change(content, change):
    content = json.loads(json.dumps(content))
    change(content)
    return content


BAD_ANNOTATIONS = {
    'needed': lambda a: a.update(keypoints=a['keypoints'][:-3]),
    r"lacks \['keypoints'\]": lambda a: a.pop('keypoints'),
    r"lacks \['bbox'\]": lambda a: a.update(bbox=None),
    'belongs to image 99': lambda a: a.update(image_id=99),
    'keypoints or an area that are not finite': lambda a: a['keypoints'].__setitem__(3, float('nan')),
    'not four finite numbers': lambda a: a.update(bbox=[0, 0, float('inf'), 5]),
    'wholly outside the 160x140 image': lambda a: a.update(bbox=[500, 0, 30, 30]),
    'negative size': lambda a: a.update(bbox=[50, 50, -30, 30]),
    'visibility flags': lambda a: a['keypoints'].__setitem__(2, 7),
    'occurs twice': lambda a: a.update(id=10),
    'not numbers': lambda a: a.update(bbox=['a', 0, 1, 1]),
}


@pytest.mark.parametrize('message', BAD_ANNOTATIONS)
def test_bad_annotation_is_named_or_skipped(toy, tmp_path, message):
    path = _write(tmp_path / 'bad.json', _change(toy[2], lambda c: BAD_ANNOTATIONS[message](c['annotations'][4])))
    ann_id = json.loads(path.read_text())['annotations'][4]['id']
    with pytest.raises(ValueError, match=f'bad.json: annotation {ann_id} .*{message}'):
        PoseDataset(path, toy[1])
    ds = PoseDataset(path, toy[1], skip_bad=True)
    assert len(ds) == 8 and [s['ann_id'] for s in ds.skipped] == [ann_id] and 'bad.json' in ds.skipped[0]['file']


BAD_FILES = {
    "no list 'images'": lambda c: c.pop('images'),
    'has 0 categories with keypoints': lambda c: c['categories'][0].pop('keypoints'),
    'no skeleton has these': lambda c: c['categories'][0].update(keypoints=['paw', 'tail']),
    r"image 2 lacks \['height'\]": lambda c: c['images'][1].pop('height'),
    'image id 1 occurs twice': lambda c: c['images'][1].update(id=1),
    'whole-numbered id': lambda c: c['images'][1].update(width=0),
    'has nobody to show': lambda c: c.update(annotations=[]),
}


@pytest.mark.parametrize('message', BAD_FILES)
def test_bad_annotation_file_is_named(toy, tmp_path, message):
    with pytest.raises(ValueError, match=f'bad.json.*{message}'):
        PoseDataset(_write(tmp_path / 'bad.json', _change(toy[2], BAD_FILES[message])), toy[1])


JUNK = [None, 'x', [], {}, -1, 0, 2**70, 1e308, float('nan'), True, [[1]], ['a'], {'a': 1}, [None] * 4]


@pytest.mark.parametrize('junk', JUNK, ids=repr)
def test_junk_anywhere_is_a_clear_error_or_harmless(toy, tmp_path, junk):
    "Whatever stands in whatever field: samples, or an error that names the file."
    places = [(part, field) for part in ('images', 'annotations', 'categories') for field in toy[2][part][0]]
    for part, field in [*places, ('images', None), ('annotations', None), ('categories', None), (None, None)]:
        def change(c, part=part, field=field):
            if field:
                c[part][0][field] = junk
            else:
                c[part] = [junk]
        content = junk if part is None else _change(toy[2], change)
        try:
            assert len(PoseDataset(_write(tmp_path / 'junk.json', content), toy[1])[0]) == 9
        except (ValueError, FileNotFoundError) as e:
            assert 'junk.json' in str(e) or str(toy[1]) in str(e), (part, field, e)  # the file, or the image it names


@pytest.mark.parametrize('junk', JUNK, ids=repr)
def test_junk_among_detections(toy, tmp_path, junk):
    box = dict(image_id=2, category_id=1, bbox=[5, 6, 50, 70], score=.9)
    for content in [junk, [junk], *([box | {field: junk}] for field in box)]:
        try:
            PoseDataset(*toy[:2], boxes=_write(tmp_path / 'found.json', content))[0]
        except ValueError as e:
            assert 'found.json' in str(e), e


def test_broken_json_and_missing_file_are_named(toy, tmp_path):
    (tmp_path / 'cut.json').write_text(toy[0].read_text()[:-40])
    with pytest.raises(ValueError, match='cut.json is not valid JSON'):
        PoseDataset(tmp_path / 'cut.json', toy[1])
    with pytest.raises(FileNotFoundError, match='no file .*none.json'):
        PoseDataset(tmp_path / 'none.json', toy[1])


@pytest.mark.parametrize('argument', [dict(seed=-1), dict(input_size=(256,)), dict(input_size=(0, 192))])
def test_bad_arguments(toy, argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        PoseDataset(*toy[:2], **argument)


BAD_IMAGES = {
    'is empty': lambda p: p.write_bytes(b''),
    'is cut off': lambda p: p.write_bytes(p.read_bytes()[:len(p.read_bytes()) // 2]),
    'is not a readable image': lambda p: p.write_text('<html>404</html>'),
    'no image': lambda p: p.unlink(),
    'stored as 30x20': lambda p: cv2.imwrite(str(p), np.zeros((20, 30, 3), np.uint8)),
}


@pytest.mark.parametrize('use_cache', [False, True])
@pytest.mark.parametrize('message', BAD_IMAGES)
def test_bad_image_is_named_or_skipped(toy, tmp_path, message, use_cache):
    BAD_IMAGES[message](toy[1] / '3.jpg')
    cache = tmp_path / 'cache' if use_cache else None
    named = rf'3\.jpg .*{message}|{message}.*3\.jpg.*annotation 30'
    with pytest.raises((ValueError, FileNotFoundError), match=named):
        for s in PoseDataset(*toy[:2], cache=cache):
            assert s['image_id'] < 3
    for _ in range(2):  # the second time, an existing cache knows
        ds = PoseDataset(*toy[:2], cache=cache, skip_bad=True, augment=Augmentation())
        assert [s['ann_id'] for s in ds.skipped] == [30, 31] and all('3.jpg' in s['file'] for s in ds.skipped)
        assert 3 not in [s['image_id'] for s in ds] and len(ds) == 7
    if use_cache:
        with pytest.raises((ValueError, FileNotFoundError), match='3.jpg'):
            PoseDataset(*toy[:2], cache=cache, augment=Augmentation())


def test_a_skipped_image_leaves_the_others_as_they_were(toy):
    whole = {s['ann_id']: s for s in PoseDataset(*toy[:2], augment=Augmentation())}
    (toy[1] / '1.jpg').write_bytes(b'')
    for s in PoseDataset(*toy[:2], augment=Augmentation(), skip_bad=True):
        assert all(torch.equal(s[k], whole[s['ann_id']][k]) for k in ('image', 'joints', 'matrix'))


def test_nothing_readable(toy):
    for p in toy[1].iterdir():
        p.write_bytes(b'')
    with pytest.raises(ValueError, match='not one image can be read'):
        PoseDataset(*toy[:2], skip_bad=True)


# ---- kinds of images

def test_exif_is_not_obeyed(tmp_path):
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :30] = 255
    for orientation in (3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(picture).save(tmp_path / f'{orientation}.jpg', exif=exif.tobytes())
        stored = read_image(tmp_path / f'{orientation}.jpg', (60, 40))
        assert stored[:, :25].min() > 200 and stored[:, 35:].max() < 50
    with pytest.raises(ValueError, match='stored as 60x40 px, .* say 40x60; they were made on the view turned'):
        read_image(tmp_path / '6.jpg', (40, 60))


def test_grey_16_bit_cmyk_and_alpha(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
    cv2.imwrite(str(tmp_path / 'grey.png'), ramp)
    cv2.imwrite(str(tmp_path / 'deep.png'), ramp.astype(np.uint16) * 257)
    Image.fromarray(ramp).convert('RGB').convert('CMYK').save(tmp_path / 'cmyk.jpg', quality=100)
    Image.fromarray(np.dstack([ramp] * 3 + [np.full_like(ramp, 9)])).save(tmp_path / 'alpha.png')
    for name, tolerance in {'grey.png': 0, 'deep.png': 1, 'cmyk.jpg': 6, 'alpha.png': 0}.items():
        img = read_image(tmp_path / name, (60, 40))
        assert img.shape == (40, 60, 3) and img.dtype == np.uint8
        assert np.abs(img.astype(int) - ramp[..., None]).max() <= tolerance, name


def test_cut_files_and_thumbnails(tmp_path):
    "The end marker of a thumbnail in the head does not make a cut file whole; bytes behind the end do no harm."
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for kind in (dict(progressive=True), dict()):
        picture.save(tmp_path / 'a.jpg', exif=b'Exif\0\0MM\0*\0\0\0\x08' + b'\xff\xd8thumbnail\xff\xd9', **kind)
        whole = (tmp_path / 'a.jpg').read_bytes()
        assert data.jpeg_complete(whole) and data.jpeg_complete(whole + b'trailer' * 9999)
        (tmp_path / 'a.jpg').write_bytes(whole[:-500])
        with pytest.raises(ValueError, match='cut off'):
            read_image(tmp_path / 'a.jpg')
    picture.save(tmp_path / 'a.png')
    (tmp_path / 'a.png').write_bytes((tmp_path / 'a.png').read_bytes()[:-500])
    with pytest.raises(ValueError, match='cut off'):
        read_image(tmp_path / 'a.png')


# ---- boxes and filters

def test_boxes_partly_or_not_in_the_image(toy, tmp_path):
    def change(c):
        c['annotations'][0]['bbox'] = [-20, -10, 60, 60]
        c['annotations'][0].pop('area')
    ds = PoseDataset(_write(tmp_path / 'a.json', _change(toy[2], change)), toy[1])
    np.testing.assert_allclose(ds.people.box[0], [0, 0, 40, 50])
    assert ds[0]['area'] == pytest.approx(.53 * 40 * 50)
    found = _write(tmp_path / 'found.json', [dict(image_id=1, category_id=1, bbox=[-500, 0, 50, 60], score=.5)])
    s = PoseDataset(*toy[:2], boxes=found)[0]
    assert s['image'].max() == 0 and s['ann_id'] == -1


def test_what_is_left_out(toy, tmp_path):
    rle = dict(counts='0PP1', size=[100, 200])
    def change(c):
        c['categories'].append(dict(id=2, name='dog'))
        c['annotations'][0].update(iscrowd=1, segmentation=rle, keypoints=[0] * 51, num_keypoints=0)
        c['annotations'][1].update(keypoints=[0] * 51, num_keypoints=0)
        c['annotations'][2].update(keypoints=[0] * 51)
        c['annotations'][3].update(bbox=[5, 5, .2, 40])
        c['annotations'][4].update(category_id=2, keypoints=[1])
        c['annotations'][5].update(keypoints=None, num_keypoints=0)
        c['images'].append(dict(id=50, file_name='nobody.jpg', width=5, height=5))
    ds = PoseDataset(_write(tmp_path / 'a.json', _change(toy[2], change)), toy[1])
    assert ds.filtered == {'crowd': 1, 'no keypoints': 3, 'tiny box': 1, 'other category': 1}
    assert len(ds) == 3 and not ds.skipped


def test_unlabelled_joints_stay_out_of_the_way(toy, tmp_path):
    def change(c):
        c['annotations'][0]['keypoints'][3:6] = [33, 44, 0]
    s = PoseDataset(_write(tmp_path / 'a.json', _change(toy[2], change)), toy[1])[0]
    assert s['visible'].tolist() == [1, 0] + [1] * 15 and s['joints'][1].tolist() == [0, 0]
    assert s['joints'].dtype == s['visible'].dtype == s['matrix'].dtype == torch.float32


def test_bad_detections_are_skipped_on_request(toy, tmp_path):
    box = dict(image_id=2, category_id=1, bbox=[5, 6, 50, 70], score=.9)
    found = _write(tmp_path / 'found.json', [box, 7, box | dict(bbox=[1, 2, 3]), box | dict(score=.8)])
    with pytest.raises(ValueError, match='found.json: entry 1 lacks .*skip_bad=True'):
        PoseDataset(*toy[:2], boxes=found)
    ds = PoseDataset(*toy[:2], boxes=found, skip_bad=True)
    assert len(ds) == 2 and [s['ann_id'] for s in ds.skipped] == [-1, -1]
    assert [s['reason'][:7] for s in ds.skipped] == ['entry 1', 'entry 2'] and 'found.json' in ds.skipped[0]['file']


def test_a_keypoint_set_of_ones_own(tmp_path, monkeypatch):
    names, n = ('nose', 'left_ear', 'right_ear'), 3
    mine = Skeleton('mine', names, (('left_ear', 'right_ear'),), (('nose', 'left_ear'),), (.03, .04, .04), names)
    cv2.imwrite(str(tmp_path / '1.png'), np.zeros((90, 80, 3), np.uint8))
    dog = _person(1, 1, (5, 5, 60, 70), k=n)
    path = _write(tmp_path / 'dogs.json', dict(images=[dict(id=1, file_name='1.png', width=80, height=90)], annotations=[dog],
                                               categories=[dict(id=1, name='dog', keypoints=list(names))]))
    with pytest.raises(ValueError, match='no skeleton has these'):
        PoseDataset(path, tmp_path)
    monkeypatch.setitem(SKELETONS, 'mine', mine)
    s = PoseDataset(path, tmp_path, augment=Augmentation(flip=1))[0]
    assert s['joints'].shape == (3, 2) and s['visible'].sum() == 3
    out = evaluate(path, [dict(image_id=1, category_id=1, keypoints=dog['keypoints'], score=1.)])
    assert out['AP'] == out['OKS_left_ear'] == 100


def test_detected_boxes(toy, tmp_path):
    box = dict(image_id=2, category_id=1, bbox=[5, 6, 50, 70], score=.9)
    found = [box, box | dict(category_id=3), box | dict(image_id=77), box | dict(score=.2)]
    ds = PoseDataset(*toy[:2], boxes=_write(tmp_path / 'found.json', found), score_threshold=.5)
    assert ds.boxes == 'detected boxes (found.json, score >= 0.5)'
    assert ds.filtered == {'other category': 1, 'other image': 1, 'low score': 1}
    assert (ds[0]['box_score'], ds[0]['image_id'], ds[0]['visible'].sum()) == (.9, 2, 0)
    nan = float('nan')
    bad = [('lacks', dict(image_id=1)), ('finite', box | dict(bbox=[1, 2, 3])), ('finite', box | dict(score=nan))]
    for message, entry in bad:
        with pytest.raises(ValueError, match=f'found.json: entry 0 .*{message}'):
            PoseDataset(*toy[:2], boxes=_write(tmp_path / 'found.json', [entry]))
    with pytest.raises(FileNotFoundError, match='no file .*gtt'):
        PoseDataset(*toy[:2], boxes=tmp_path / 'gtt')


# ---- cache

def _only(folder):
    files = sorted(folder.glob('*.crops'))
    assert not list(folder.glob('*.part'))
    return files


def test_cache_gives_the_same_samples(toy, tmp_path):
    for augment in (None, Augmentation()):
        off, on = (PoseDataset(*toy[:2], augment=augment, cache=c) for c in (None, tmp_path / 'c'))
        for epoch in range(5):
            assert all(_same(make_sample(off, i, epoch), make_sample(on, i, epoch)) for i in range(len(off)))


def test_cache_is_rebuilt_when_stale_only(toy, tmp_path):
    folder = tmp_path / 'c'
    def make(**kwargs):
        return PoseDataset(*toy[:2], **(dict(augment=Augmentation(), cache=folder) | kwargs))
    make()
    (first,) = _only(folder)
    stamp = first.stat().st_mtime_ns
    make(seed=9)
    assert _only(folder) == [first] and first.stat().st_mtime_ns == stamp
    make(augment=Augmentation(scale=.2))
    make(input_size=(128, 128))
    make(augment=None)
    assert len(_only(folder)) == 4
    cv2.imwrite(str(toy[1] / '1.jpg'), np.full((100, 200, 3), 77, np.uint8))
    assert (make()[0]['image'] == 77).any() and len(_only(folder)) == 5
    _write(toy[0], _change(toy[2], lambda c: c['annotations'][0].update(bbox=[0, 0, 30, 30])))
    make()
    assert len(_only(folder)) == 6


@pytest.mark.parametrize('damage', [lambda b: b[:-5], lambda b: b'', lambda b: b[1:], lambda b: b + b'x'])
def test_damaged_cache_is_rebuilt(toy, tmp_path, damage):
    ds = PoseDataset(*toy[:2], cache=tmp_path / 'c')
    expected, whole = ds[0], ds.cache.path.read_bytes()
    ds.cache.path.write_bytes(damage(whole))
    again = PoseDataset(*toy[:2], cache=tmp_path / 'c')
    assert again.cache.path.read_bytes() == whole and _same(again[0], expected)


def test_interrupted_build_leaves_nothing(toy, tmp_path, monkeypatch):
    calls = []
    def fail(ds, n):
        calls.append(n)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return load_image(ds, n)
    with monkeypatch.context() as m:
        m.setattr(data, 'load_image', fail)
        with pytest.raises(KeyboardInterrupt):
            PoseDataset(*toy[:2], cache=tmp_path / 'c')
    assert _only(tmp_path / 'c') == []
    assert len(PoseDataset(*toy[:2], cache=tmp_path / 'c')) == 9


def test_full_disk_is_said_before_the_work(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(OSError, match='the crop cache needs .* are free'):
        PoseDataset(*toy[:2], cache=tmp_path / 'c')


def _sum_of_samples(args):
    cv2.setNumThreads(0)  # as in the loader's workers: thread pools do not survive a fork
    ds = PoseDataset(*args[:2], augment=Augmentation(), cache=args[2])
    return [int(s['image'].numpy().sum()) for s in ds]


def test_concurrent_runs_share_one_cache(toy, tmp_path):
    with ProcessPoolExecutor(4, mp_context=get_context('fork')) as pool:
        sums = list(pool.map(_sum_of_samples, [(toy[0], toy[1], tmp_path / 'c')] * 8))
    assert sums == [_sum_of_samples((toy[0], toy[1], None))] * 8
    assert len(_only(tmp_path / 'c')) == 1


def test_dataset_travels_to_spawned_workers(toy, tmp_path):
    ds = PoseDataset(*toy[:2], augment=Augmentation(), cache=tmp_path / 'c')
    ds[0]
    assert len(pickle.dumps(ds)) < 100_000
    assert _same(pickle.loads(pickle.dumps(ds))[3], ds[3])


# ---- datasets

@pytest.mark.parametrize('name', SAMPLES)
def test_sample_datasets(real, tmp_path, name):
    file, k = SAMPLES[name]
    off, on = (PoseDataset(real / name / file, real / name, augment=Augmentation(), cache=c) for c in (None, tmp_path))
    assert off.skeleton.num_keypoints == k and len(off) + sum(off.filtered.values()) == len(
        json.loads((real / name / file).read_text())['annotations'])
    assert all(_same(a, b) for a, b in zip(off, on, strict=True))
    for s in off:
        inside = (s['joints'] >= -400).all() and (s['joints'] <= 600).all()
        assert inside and s['visible'].sum() > 0 and s['area'] > 0


def test_coco_detections(real):
    root = real / 'coco_sample'
    ds = PoseDataset(root / 'test_coco.json', root, boxes=root / 'test_coco_det_AP_H_56.json')
    assert len(ds) == 118 and {s['image_id'] for s in ds} == {785, 40083, 196141, 197388}


def test_lspet_crops_follow_the_closed_form(real):
    root = real / 'lspet'
    content = json.loads((root / 'person_keypoints_val.json').read_text())
    ds = PoseDataset(root / 'person_keypoints_val.json', root / 'images')
    assert len(ds) == 1000 and ds.skeleton == CROWDPOSE and not ds.filtered and not ds.skipped
    for i in range(0, 1000, 23):
        a, s = content['annotations'][i], ds[i]
        (x, y, w, h), kp = a['bbox'], np.array(a['keypoints']).reshape(-1, 3)
        k = 192 / (1.25 * max(w, .75 * h))
        expected = (kp[:, :2] - [x + w / 2, y + h / 2]) * k + [96, 128]
        seen = kp[:, 2] > 0
        assert np.abs(s['joints'].numpy() - expected)[seen].max() < .02
        assert (s['visible'].numpy() == seen).all()
        assert (s['ann_id'], s['image_id'], s['area']) == (a['id'], a['image_id'], a['area'])
        back = apply_matrix(s['matrix'].numpy(), s['joints'].numpy())
        np.testing.assert_allclose(back[seen], kp[seen, :2], atol=1e-2)


def _lsp_mat(path, content, count, layout=(1, 2, 0)):
    joints = np.zeros((count, 14, 3))
    for a in (a for c in content for a in c['annotations'] if a['id'] <= count):
        kp = np.array(a['keypoints']).reshape(14, 3)
        joints[a['id'] - 1] = kp[[CROWDPOSE.index(n) for n in LSP_KEYPOINTS]]
    joints[..., 2] = joints[..., 2] > 0
    savemat(path, dict(joints=joints.transpose(layout)))


@pytest.mark.parametrize('layout', [(1, 2, 0), (2, 1, 0)])
def test_lspet_round_trip(real, tmp_path, layout):
    "From annotations back to joints.mat and forth: all equal but the boxes, whose source had more digits."
    root, count = real / 'lspet', 300
    published = {s: json.loads((root / f'person_keypoints_{s}.json').read_text()) for s in ('train', 'val')}
    _lsp_mat(tmp_path / 'joints.mat', published.values(), count, layout)
    files = convert_lspet(tmp_path / 'joints.mat', root / 'images', tmp_path / 'out')
    for split, path in files.items():
        got, expected = json.loads(path.read_text()), published[split]
        assert list(got) == list(expected) and all(got[k] == expected[k] for k in ('info', 'licenses', 'categories'))
        assert got['images'] == [i for i in expected['images'] if i['id'] <= count]
        for a, b in zip(got['annotations'], (b for b in expected['annotations'] if b['id'] <= count), strict=True):
            assert list(a) == list(b) and {k for k in a if a[k] != b[k]} <= {'bbox', 'area'}
            np.testing.assert_allclose(a['bbox'], b['bbox'], atol=.021)
            assert abs(a['area'] - b['area']) <= .53 * .021 * sum(b['bbox'][2:]) + .01
        assert len(PoseDataset(path, root / 'images')) == len(got['annotations'])


def test_lspet_bad_files(tmp_path):
    (tmp_path / 'text.mat').write_text('no matlab file, but long enough to be read as one ' * 9)
    savemat(tmp_path / 'shape.mat', dict(joints=np.zeros((14, 2, 5))))
    savemat(tmp_path / 'name.mat', dict(joint=np.zeros((14, 3, 5))))
    savemat(tmp_path / 'good.mat', dict(joints=np.ones((14, 3, 5))))
    for name, message in dict(text='not a MATLAB file', shape="no array 'joints'", name="no array 'joints'").items():
        with pytest.raises(ValueError, match=f'{name}.mat .*{message}'):
            read_lsp_joints(tmp_path / f'{name}.mat')
    with pytest.raises(FileNotFoundError, match='no file .*none.mat'):
        read_lsp_joints(tmp_path / 'none.mat')
    with pytest.raises(FileNotFoundError, match='no image .*im00001.jpg'):
        convert_lspet(tmp_path / 'good.mat', tmp_path, tmp_path / 'out')


def test_synthetic_set(tmp_path):
    synthetic = pytest.importorskip('fsd_sdpose.synthetic')
    path = synthetic.make_dataset(tmp_path / 's', 4, seed=1)
    ds = PoseDataset(path, path.parent / 'images', augment=Augmentation(), cache=tmp_path / 'c')
    batch = next(iter(make_loader(ds, min(4, len(ds)))))
    assert batch['image'].shape[1:] == (256, 192, 3) and batch['visible'].sum() > 0


def test_inverse():
    m = crop_matrix([31.5, 77.], [.8, 1.1], 33.)
    points = np.eye(2) * 100
    np.testing.assert_allclose(apply_matrix(invert_matrix(m), apply_matrix(m, points)), points, atol=1e-9)
