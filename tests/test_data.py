import copy
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

from fsd_sdpose import crops
from fsd_sdpose.annotations import LSP_KEYPOINTS, convert_lspet, jpeg_complete, read_image
from fsd_sdpose.crops import Augmentation, apply_matrix
from fsd_sdpose.data import EpochSampler, ImageReader, PoseDataset, make_loader
from fsd_sdpose.evaluation import evaluate
from fsd_sdpose.files import read_json, write_json
from fsd_sdpose.skeletons import COCO, CROWDPOSE, SKELETONS, Skeleton

PERSON = [dict(id=1, name='person', keypoints=list(COCO.keypoints))]


@pytest.fixture
def decoded():
    "Matrices and a warped picture of the released code."
    if 'FSD_REFERENCE' not in os.environ:
        pytest.skip('FSD_REFERENCE is not set: reference material is elsewhere')
    return np.load(Path(os.environ['FSD_REFERENCE'], 'parity/decode.npz'))


def _person(ann_id, image_id, box, k=17, **change):
    x, y, w, h = box
    rng = np.random.default_rng(ann_id)
    kp = np.column_stack([rng.uniform(x, x + w, k), rng.uniform(y, y + h, k), np.full(k, 2)])
    return dict(id=ann_id, image_id=image_id, category_id=1, iscrowd=0, bbox=list(box),
                area=w * h / 2, num_keypoints=k, keypoints=kp.ravel().tolist()) | change


class Toy:
    "Six images of noise, nine people."

    def __init__(self, folder):
        self.folder, self.images, self.file = folder, folder / 'images', folder / 'person.json'
        rng, images, people = np.random.default_rng(0), [], []
        self.images.mkdir()
        for n in range(1, 7):
            h, w = 80 + 20 * n, 220 - 20 * n
            picture = cv2.GaussianBlur(rng.integers(0, 255, (h, w, 3), np.uint8), (0, 0), 2)
            cv2.imwrite(str(self.images / f'{n}.jpg'), picture)
            images.append(dict(id=n, file_name=f'{n}.jpg', width=w, height=h))
            for m in range(1 + n % 2):
                people.append(_person(10 * n + m, n, (10 + 20 * m, 5, w / 2, h * .8)))
        self.content = dict(images=images, annotations=people, categories=PERSON)
        self.write('person.json', self.content)

    def write(self, name, content):
        write_json(self.folder / name, content)
        return self.folder / name

    def changed(self, change, name='bad.json'):
        "The file after a change of its content."
        content = copy.deepcopy(self.content)
        change(content)
        return self.write(name, content)

    def dataset(self, file=None, **kwargs):
        return PoseDataset(file or self.file, self.images, **kwargs)


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


def _same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)


# ---- geometry

def test_parity_matrices(decoded):
    for row, matrix in zip(decoded['affine_in_bbox_rot_center_scale'], decoded['affine_mats'],
                           strict=True):
        center, scale = crops.box_to_center_scale(row[:4])
        ours = crops.crop_matrix(center, scale, row[4])
        np.testing.assert_allclose([*center, *scale], row[5:], atol=1e-6)
        np.testing.assert_allclose(ours, matrix, atol=2e-5)
        corners = np.array([[0, 0], [640, 0], [640, 480.]])
        np.testing.assert_allclose(apply_matrix(ours, corners), apply_matrix(matrix, corners),
                                   atol=2e-3)


def test_parity_warp(decoded):
    "The released bilinear warp of a smooth 640x480 picture, box 1 turned by 30 degrees."
    def warp(pixels, origin):
        crop = crops.warp_rect(pixels, origin, matrix, (256, 192))
        return cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)

    picture = cv2.resize(decoded['warp_src_small'], None, fx=8, fy=8)
    spec = decoded['affine_in_bbox_rot_center_scale'][1]
    matrix = crops.crop_matrix(*crops.box_to_center_scale(spec[:4]), spec[4])
    row = apply_matrix(crops.invert_matrix(matrix), np.array([[x, 128] for x in range(192)]))
    for x0, y0 in ((0, 0), (5, 10)):  # from a rectangle that begins here, as crops are made
        difference = warp(picture[y0:, x0:], (x0, y0))[128].astype(int) - decoded['warp_out_row128']
        assert np.abs(difference[row[:, 0] > 6]).max() <= 1
    total = warp(picture, (0, 0)).sum((0, 1))
    assert np.abs(total - decoded['warp_out_sum']).max() < 192 * 256 * .01


@pytest.mark.parametrize('augment', [None, Augmentation()])
def test_rectangle_holds_all_that_a_crop_sees(toy, augment):
    "Warping from the rectangle is warping from the image, up to one grey level of rounding."
    ds = toy.dataset(augment=augment)
    for epoch, i in np.ndindex(8, len(ds)):
        whole = ds.images.load(ds.people.image[i])
        whole = crops.warp_rect(whole, (0, 0), ds.crops.draw(i, 0, epoch)[0], (256, 192))
        assert np.abs(ds[i, epoch]['image'].numpy().astype(int) - whole).max() <= 1


def test_pixels_and_joints_share_the_matrix(tmp_path):
    "A bright dot drawn at a joint is found at the joint in every augmented crop."
    image, joint = np.zeros((200, 150, 3), np.uint8), (70, 90)
    cv2.circle(image, joint, 3, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / '1.png'), image)
    keypoints = np.zeros((17, 3))
    keypoints[COCO.index('left_wrist')] = *joint, 2
    person = _person(1, 1, (40, 50, 60, 90), keypoints=keypoints.ravel().tolist(), num_keypoints=1)
    images = [dict(id=1, file_name='1.png', width=150, height=200)]
    write_json(tmp_path / 'a.json', dict(images=images, annotations=[person], categories=PERSON))
    ds = PoseDataset(tmp_path / 'a.json', tmp_path, augment=Augmentation(shift=.05))
    mirrored = 0
    for epoch in range(40):
        s = ds[0, epoch]
        k = int(s['visible'].argmax())
        mirrored += k == COCO.index('right_wrist')
        y, x = np.nonzero(s['image'][..., 0].numpy() > 127)
        np.testing.assert_allclose([x.mean(), y.mean()], s['joints'][k], atol=.25)
        back = apply_matrix(s['matrix'].numpy(), s['joints'][k].numpy())
        np.testing.assert_allclose(back, joint, atol=1e-2)
    assert 8 < mirrored < 32


# ---- augmentation

PLAIN = np.array([50., 60.]), np.array([.75, 1.])
HALVES = np.array([[1000., 0.], [2000., 0.]]), np.ones((2, 2))


def test_augmentation_rates():
    "The frequencies of the recipe, over 20,000 draws."
    rng, halves = np.random.default_rng(0), (*HALVES, np.array([8, 6]))
    draws = [crops.random_crop(rng, Augmentation(), *PLAIN, halves) for _ in range(20_000)]
    center, scale, angle, mirrored = map(np.array, zip(*draws, strict=True))
    x, factor = center[:, 0], scale[:, 0] / PLAIN[1][0]
    half = x > 500
    assert abs(half.mean() - .3) < .01
    assert abs((x[half] == 1000).mean() - .69) < .02
    assert abs((x[~half] != 50).mean() - .3) < .02
    assert np.abs(x[~half] - 50).max() <= .16 * 150
    assert abs((angle != 0).mean() - .6) < .01 and np.abs(angle).max() == 90
    assert abs(np.median(np.abs(angle[angle != 0])) - .6745 * 45) < 1
    assert np.isclose([factor[~half].min(), factor[~half].max()], [.65, 1.35]).all()
    assert abs(mirrored.mean() - .5) < .01


@pytest.mark.parametrize('counts, x', [((5, 3), 50), ((9, 0), 1000)])
def test_half_body_needs_enough_joints(counts, x):
    rng, halves = np.random.default_rng(0), (*HALVES, np.array(counts))
    a = Augmentation(half_body=1, shift_prob=0)
    assert all(crops.random_crop(rng, a, *PLAIN, halves)[0][0] == x for _ in range(50))


def test_no_augmentation_is_the_plain_crop(toy):
    off = Augmentation(flip=0, half_body=0, shift_prob=0, scale=0, rotation_prob=0)
    for a, b in zip(toy.dataset(), toy.dataset(augment=off), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in ('joints', 'visible', 'matrix'))
        assert (a['image'].int() - b['image'].int()).abs().max() <= 1


def test_one_setting_does_not_disturb_another(toy):
    never, always = (toy.dataset(augment=Augmentation(flip=p, rotation=0)) for p in (0, 1))
    for i in range(len(never)):
        expected = crops.mirror_matrix(never.crops.draw(i)[0], 192)
        np.testing.assert_allclose(expected, always.crops.draw(i)[0])


# ---- order and randomness

def test_samples_depend_on_seed_epoch_and_index_only(toy):
    ds, other = (toy.dataset(augment=Augmentation(), seed=s) for s in (5, 6))
    backwards = {i: ds[i] for i in reversed(range(len(ds)))}
    assert all(_same(ds[i], backwards[i]) for i in range(len(ds)))
    assert not torch.equal(other[0]['matrix'], ds[0]['matrix'])
    ds.set_epoch(1)
    assert not torch.equal(backwards[0]['matrix'], ds[0]['matrix'])
    assert _same(ds[-1], ds[len(ds) - 1])
    with pytest.raises(IndexError):
        ds[len(ds)]


def test_workers_change_nothing_even_when_they_live_on(toy):
    ds, runs = toy.dataset(augment=Augmentation()), {}
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
    loader = make_loader(toy.dataset(augment=Augmentation()), 4, shuffle=True)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize('world', [2, 3, 4])
def test_processes_share_the_samples(toy, world):
    ds = toy.dataset()
    whole = list(EpochSampler(ds, True, 3))
    shares = [list(EpochSampler(ds, True, 3, rank, world)) for rank in range(world)]
    assert sorted(sum(shares, [])) == sorted(whole)
    even = [EpochSampler(ds, True, 3, rank, world, even=True) for rank in range(world)]
    assert {len(list(s)) for s in even} == {len(s) for s in even} == {len(whole) // world}
    with pytest.raises(ValueError, match='rank 2 of 2'):
        EpochSampler(ds, rank=2, world_size=2)


@pytest.mark.parametrize('drop_last, sizes', [(False, [4, 4, 1]), (True, [4, 4])])
def test_drop_last(toy, drop_last, sizes):
    loader = make_loader(toy.dataset(), 4, drop_last=drop_last)
    assert [len(b['index']) for b in loader] == sizes


# ---- bad files

BAD_ANNOTATIONS = {
    'needed': lambda a: a.update(keypoints=a['keypoints'][:-3]),
    r"lacks \['keypoints'\]": lambda a: a.pop('keypoints'),
    r"lacks \['bbox'\]": lambda a: a.update(bbox=None),
    'belongs to image 99': lambda a: a.update(image_id=99),
    'an area that are not finite': lambda a: a['keypoints'].__setitem__(3, float('nan')),
    'not four finite numbers': lambda a: a.update(bbox=[0, 0, float('inf'), 5]),
    'wholly outside the 160x140 image': lambda a: a.update(bbox=[500, 0, 30, 30]),
    'negative size': lambda a: a.update(bbox=[50, 50, -30, 30]),
    'visibility flags': lambda a: a['keypoints'].__setitem__(2, 7),
    'occurs twice': lambda a: a.update(id=10),
    'not numbers': lambda a: a.update(bbox=['a', 0, 1, 1]),
}


@pytest.mark.parametrize('message', BAD_ANNOTATIONS)
def test_bad_annotation_is_named_or_skipped(toy, message):
    path = toy.changed(lambda c: BAD_ANNOTATIONS[message](c['annotations'][4]))
    ann_id = read_json(path)['annotations'][4]['id']
    with pytest.raises(ValueError, match=f'bad.json: annotation {ann_id} .*{message}'):
        toy.dataset(path)
    ds = toy.dataset(path, skip_bad=True)
    assert len(ds) == 8 and [s['ann_id'] for s in ds.skipped] == [ann_id]
    assert 'bad.json' in ds.skipped[0]['file']


BAD_FILES = {
    "no list 'images'": lambda c: c.pop('images'),
    'has 0 categories with keypoints': lambda c: c['categories'][0].pop('keypoints'),
    'no skeleton has these': lambda c: c['categories'][0].update(keypoints=['paw', 'tail']),
    r"image 2 lacks \['height'\]": lambda c: c['images'][1].pop('height'),
    'image 1 has an id that occurs twice': lambda c: c['images'][1].update(id=1),
    'whole-numbered id': lambda c: c['images'][1].update(width=0),
    'has nobody to show': lambda c: c.update(annotations=[]),
}


@pytest.mark.parametrize('message', BAD_FILES)
def test_bad_annotation_file_is_named(toy, message):
    with pytest.raises(ValueError, match=f'bad.json.*{message}'):
        toy.dataset(toy.changed(BAD_FILES[message]))


JUNK = [None, 'x', [], {}, -1, 0, 2**70, 1e308, np.nan, True, [[1]], ['a'], {'a': 1}, [None] * 4]


@pytest.mark.parametrize('junk', JUNK, ids=repr)
def test_junk_anywhere_is_a_clear_error_or_harmless(toy, junk):
    "Whatever stands in whatever field: samples, or an error that names the file or the image."
    files = [junk]
    for part, (first, *others) in toy.content.items():
        files += [toy.content | {part: [first | {field: junk}, *others]} for field in first]
        files.append(toy.content | {part: [junk]})
    for content in files:
        try:
            assert len(toy.dataset(toy.write('junk.json', content))[0]) == 9
        except (ValueError, FileNotFoundError) as e:
            assert 'junk.json' in str(e) or str(toy.images) in str(e), (content, e)


@pytest.mark.parametrize('junk', JUNK, ids=repr)
def test_junk_among_detections(toy, junk):
    for content in [junk, [junk], *([BOX | {field: junk}] for field in BOX)]:
        try:
            toy.dataset(boxes=toy.write('found.json', content))[0]
        except ValueError as e:
            assert 'found.json' in str(e), e


def test_broken_json_and_missing_file_are_named(toy):
    toy.file.write_text(toy.file.read_text()[:-40])
    with pytest.raises(ValueError, match='person.json is not valid JSON'):
        toy.dataset()
    with pytest.raises(FileNotFoundError, match='no file .*none.json'):
        toy.dataset(toy.folder / 'none.json')


@pytest.mark.parametrize('name, value', [('seed', -1), ('input_size', (256,)),
                                         ('input_size', (0, 192))])
def test_bad_arguments(toy, name, value):
    with pytest.raises(ValueError, match=name):
        toy.dataset(**{name: value})


BAD_IMAGES = {
    'is empty': lambda p: p.write_bytes(b''),
    'is cut off': lambda p: p.write_bytes(p.read_bytes()[:len(p.read_bytes()) // 2]),
    'is not a readable image': lambda p: p.write_text('<html>404</html>'),
    'no image': lambda p: p.unlink(),
    'stored as 30x20': lambda p: cv2.imwrite(str(p), np.zeros((20, 30, 3), np.uint8)),
}


@pytest.mark.parametrize('use_cache', [False, True])
@pytest.mark.parametrize('message', BAD_IMAGES)
def test_bad_image_is_named_or_skipped(toy, message, use_cache):
    BAD_IMAGES[message](toy.images / '3.jpg')
    cache = toy.folder / 'cache' if use_cache else None
    named = rf'3\.jpg .*{message}|{message}.*3\.jpg.*annotation 30'
    with pytest.raises((ValueError, FileNotFoundError), match=named):
        for s in toy.dataset(cache=cache):
            assert s['image_id'] < 3
    for _ in range(2):  # the second time, an existing cache knows
        ds = toy.dataset(cache=cache, skip_bad=True, augment=Augmentation())
        assert [s['ann_id'] for s in ds.skipped] == [30, 31]
        assert all('3.jpg' in s['file'] for s in ds.skipped)
        assert 3 not in [s['image_id'] for s in ds] and len(ds) == 7
    if use_cache:
        with pytest.raises((ValueError, FileNotFoundError), match='3.jpg'):
            toy.dataset(cache=cache, augment=Augmentation())


def test_a_skipped_image_leaves_the_others_as_they_were(toy):
    whole = {s['ann_id']: s for s in toy.dataset(augment=Augmentation())}
    (toy.images / '1.jpg').write_bytes(b'')
    for s in toy.dataset(augment=Augmentation(), skip_bad=True):
        before = whole[s['ann_id']]
        assert all(torch.equal(s[k], before[k]) for k in ('image', 'joints', 'matrix'))


def test_nothing_readable(toy):
    for p in toy.images.iterdir():
        p.write_bytes(b'')
    with pytest.raises(ValueError, match='not one image can be read'):
        toy.dataset(skip_bad=True)


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
    message = 'stored as 60x40 px, .* say 40x60; they were made on the view turned'
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / '6.jpg', (40, 60))


def test_grey_16_bit_cmyk_and_alpha(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
    cv2.imwrite(str(tmp_path / 'grey.png'), ramp)
    cv2.imwrite(str(tmp_path / 'deep.png'), ramp.astype(np.uint16) * 257)
    cmyk = Image.fromarray(ramp).convert('RGB').convert('CMYK')
    cmyk.save(tmp_path / 'cmyk.jpg', quality=100)
    alpha = np.dstack([ramp] * 3 + [np.full_like(ramp, 9)])
    Image.fromarray(alpha).save(tmp_path / 'alpha.png')
    for name, tolerance in {'grey.png': 0, 'deep.png': 1, 'cmyk.jpg': 6, 'alpha.png': 0}.items():
        img = read_image(tmp_path / name, (60, 40))
        assert img.shape == (40, 60, 3) and img.dtype == np.uint8
        assert np.abs(img.astype(int) - ramp[..., None]).max() <= tolerance, name


@pytest.mark.parametrize('name, how', [('a.jpg', dict(progressive=True)), ('a.jpg', {}),
                                       ('a.png', {})])
def test_cut_files_and_thumbnails(tmp_path, name, how):
    "A thumbnail's end marker does not make a cut file whole; bytes behind the end do no harm."
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    exif = b'Exif\0\0MM\0*\0\0\0\x08' + b'\xff\xd8thumbnail\xff\xd9'
    picture.save(tmp_path / name, **how, exif=exif)
    whole = (tmp_path / name).read_bytes()
    if name == 'a.jpg':
        assert jpeg_complete(whole + b'trailer' * 9999)
    read_image(tmp_path / name)
    (tmp_path / name).write_bytes(whole[:-500])
    with pytest.raises(ValueError, match='cut off'):
        read_image(tmp_path / name)


# ---- boxes and filters

BOX = dict(image_id=2, category_id=1, bbox=[5, 6, 50, 70], score=.9)


def test_boxes_partly_or_not_in_the_image(toy):
    def change(c):
        c['annotations'][0]['bbox'] = [-20, -10, 60, 60]
        c['annotations'][0].pop('area')

    ds = toy.dataset(toy.changed(change))
    np.testing.assert_allclose(ds.people.box[0], [0, 0, 40, 50])
    assert ds[0]['area'] == pytest.approx(.53 * 40 * 50)
    found = toy.write('found.json', [BOX | dict(bbox=[-500, 0, 50, 60])])
    s = toy.dataset(boxes=found)[0]
    assert s['image'].max() == 0 and s['ann_id'] == -1


def test_what_is_left_out(toy):
    def change(c):
        rle, unlabelled = dict(counts='0PP1', size=[100, 200]), [0] * 51
        c['categories'].append(dict(id=2, name='dog'))
        changes = [dict(iscrowd=1, segmentation=rle, keypoints=unlabelled, num_keypoints=0),
                   dict(keypoints=unlabelled, num_keypoints=0), dict(keypoints=unlabelled),
                   dict(bbox=[5, 5, .2, 40]), dict(category_id=2, keypoints=[1]),
                   dict(keypoints=None, num_keypoints=0)]
        for a, changed in zip(c['annotations'], changes, strict=False):
            a.update(changed)
        c['images'].append(dict(id=50, file_name='nobody.jpg', width=5, height=5))

    ds = toy.dataset(toy.changed(change))
    assert ds.filtered == {'crowd': 1, 'no keypoints': 3, 'tiny box': 1, 'other category': 1}
    assert len(ds) == 3 and not ds.skipped


def test_unlabelled_joints_stay_out_of_the_way(toy):
    def change(c):
        c['annotations'][0]['keypoints'][3:6] = [33, 44, 0]

    s = toy.dataset(toy.changed(change))[0]
    assert s['visible'].tolist() == [1, 0] + [1] * 15 and s['joints'][1].tolist() == [0, 0]
    assert s['joints'].dtype == s['visible'].dtype == s['matrix'].dtype == torch.float32


def test_a_keypoint_set_of_ones_own(tmp_path, monkeypatch):
    names = 'nose', 'left_ear', 'right_ear'
    mine = Skeleton('mine', names, (names[1:],), (names[:2],), (.03, .04, .04), names)
    cv2.imwrite(str(tmp_path / '1.png'), np.zeros((90, 80, 3), np.uint8))
    dog, path = _person(1, 1, (5, 5, 60, 70), k=3), tmp_path / 'dogs.json'
    write_json(path, dict(images=[dict(id=1, file_name='1.png', width=80, height=90)],
                          annotations=[dog], categories=[dict(id=1, name='dog', keypoints=names)]))
    with pytest.raises(ValueError, match='no skeleton has these'):
        PoseDataset(path, tmp_path)
    monkeypatch.setitem(SKELETONS, 'mine', mine)
    s = PoseDataset(path, tmp_path, augment=Augmentation(flip=1))[0]
    assert s['joints'].shape == (3, 2) and s['visible'].sum() == 3
    out = evaluate(path, [dict(image_id=1, category_id=1, keypoints=dog['keypoints'], score=1.)])
    assert out['AP'] == out['OKS_left_ear'] == 100


def test_detected_boxes(toy):
    found = [BOX, BOX | dict(category_id=3), BOX | dict(image_id=77), BOX | dict(score=.2)]
    ds = toy.dataset(boxes=toy.write('found.json', found), score_threshold=.5)
    assert ds.boxes == 'detected boxes (found.json, score >= 0.5)'
    assert ds.filtered == {'other category': 1, 'other image': 1, 'low score': 1}
    assert (ds[0]['box_score'], ds[0]['image_id'], ds[0]['visible'].sum()) == (.9, 2, 0)
    with pytest.raises(FileNotFoundError, match='no file .*gtt'):
        toy.dataset(boxes=toy.folder / 'gtt')


@pytest.mark.parametrize('message, entry', [
    ('lacks', 7), ('lacks', dict(image_id=1)), ('finite', BOX | dict(bbox=[1, 2, 3])),
    ('finite', BOX | dict(score=float('nan'))), ('finite', BOX | dict(bbox='1234'))])
def test_bad_detections_are_named_or_skipped(toy, message, entry):
    found = toy.write('found.json', [BOX, entry, BOX | dict(score=.8)])
    with pytest.raises(ValueError, match=f'found.json: entry 1 .*{message}.*skip_bad=True'):
        toy.dataset(boxes=found)
    ds = toy.dataset(boxes=found, skip_bad=True)
    (skipped,) = ds.skipped
    assert len(ds) == 2 and skipped['ann_id'] == -1 and skipped['reason'].startswith('entry 1')
    assert 'found.json' in skipped['file']


# ---- cache

def _caches(folder):
    "The cache files; nothing else lies beside them."
    assert all(p.suffix == '.crops' for p in folder.iterdir())
    return sorted(folder.iterdir())


@pytest.mark.parametrize('augment', [None, Augmentation()])
def test_cache_gives_the_same_samples(toy, augment):
    off, on = (toy.dataset(augment=augment, cache=c) for c in (None, toy.folder / 'c'))
    assert all(_same(off[i, epoch], on[i, epoch]) for epoch, i in np.ndindex(5, len(off)))


def test_cache_is_rebuilt_when_stale_only(toy):
    folder = toy.folder / 'c'
    def make(**kwargs):
        return toy.dataset(**(dict(augment=Augmentation(), cache=folder) | kwargs))

    make()
    (first,) = _caches(folder)
    stamp = first.stat().st_mtime_ns
    make(seed=9)
    assert _caches(folder) == [first] and first.stat().st_mtime_ns == stamp
    make(augment=Augmentation(scale=.2))
    make(input_size=(128, 128))
    make(augment=None)
    assert len(_caches(folder)) == 4
    cv2.imwrite(str(toy.images / '1.jpg'), np.full((100, 200, 3), 77, np.uint8))
    assert (make()[0]['image'] == 77).any() and len(_caches(folder)) == 5
    toy.changed(lambda c: c['annotations'][0].update(bbox=[0, 0, 30, 30]), toy.file.name)
    make()
    assert len(_caches(folder)) == 6


@pytest.mark.parametrize('damage', [lambda b: b[:-5], lambda b: b'', lambda b: b[1:],
                                    lambda b: b + b'x'])
def test_damaged_cache_is_rebuilt(toy, damage):
    ds = toy.dataset(cache=toy.folder / 'c')
    expected, whole = ds[0], ds.cache.path.read_bytes()
    ds.cache.path.write_bytes(damage(whole))
    with pytest.warns(UserWarning, match=f'{ds.cache.path.name} is incomplete; it is built again'):
        again = toy.dataset(cache=toy.folder / 'c')
    assert again.cache.path.read_bytes() == whole and _same(again[0], expected)


def test_interrupted_build_leaves_nothing(toy, monkeypatch):
    load, calls = ImageReader.load, []
    def fail(images, n):
        calls.append(n)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return load(images, n)

    with monkeypatch.context() as m:
        m.setattr(ImageReader, 'load', fail)
        with pytest.raises(KeyboardInterrupt):
            toy.dataset(cache=toy.folder / 'c')
    assert _caches(toy.folder / 'c') == []
    assert len(toy.dataset(cache=toy.folder / 'c')) == 9


def test_what_an_older_interrupted_build_left_is_removed(toy):
    path = toy.dataset(cache=toy.folder / 'c').cache.path
    old, new = (path.with_name(f'.{path.name}.elsewhere-{n}-1.part') for n in (1, 2))
    for part in (path, old, new):
        part.write_bytes(b'half')
    os.utime(old, (0, 0))
    with pytest.warns(UserWarning, match='is incomplete'):
        toy.dataset(cache=toy.folder / 'c')
    assert not old.exists() and new.exists()


def test_full_disk_is_said_before_the_work(toy, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(OSError, match='the crop cache needs .* are free'):
        toy.dataset(cache=toy.folder / 'c')


def _sum_of_samples(args):
    cv2.setNumThreads(0)  # as in the loader's workers: thread pools do not survive a fork
    ds = PoseDataset(*args[:2], augment=Augmentation(), cache=args[2])
    return [int(s['image'].numpy().sum()) for s in ds]


def test_concurrent_runs_share_one_cache(toy):
    with ProcessPoolExecutor(4, mp_context=get_context('fork')) as pool:
        sums = list(pool.map(_sum_of_samples, [(toy.file, toy.images, toy.folder / 'c')] * 8))
    assert sums == [_sum_of_samples((toy.file, toy.images, None))] * 8
    assert len(_caches(toy.folder / 'c')) == 1


def test_dataset_travels_to_spawned_workers(toy):
    ds = toy.dataset(augment=Augmentation(), cache=toy.folder / 'c')
    ds[0]
    assert len(pickle.dumps(ds)) < 100_000
    assert _same(pickle.loads(pickle.dumps(ds))[3], ds[3])


# ---- datasets

@pytest.mark.parametrize('name, k', [('coco', 17), ('crowdpose', 14), ('ochuman', 17)])
def test_sample_datasets(lspet, tmp_path, name, k):
    root, file = lspet.parent / f'{name}_sample', f'test_{name}.json'
    off, on = (PoseDataset(root / file, root, augment=Augmentation(), cache=c)
               for c in (None, tmp_path))
    assert off.skeleton.num_keypoints == k
    assert len(off) + sum(off.filtered.values()) == len(read_json(root / file)['annotations'])
    assert all(_same(a, b) for a, b in zip(off, on, strict=True))
    for s in off:
        assert (s['joints'] >= -400).all() and (s['joints'] <= 600).all()
        assert s['visible'].sum() > 0 and s['area'] > 0


def test_coco_detections(lspet):
    root = lspet.parent / 'coco_sample'
    ds = PoseDataset(root / 'test_coco.json', root, boxes=root / 'test_coco_det_AP_H_56.json')
    assert len(ds) == 118 and {s['image_id'] for s in ds} == {785, 40083, 196141, 197388}


def test_lspet_crops_follow_the_closed_form(lspet):
    content = read_json(lspet / 'person_keypoints_val.json')
    ds = PoseDataset(lspet / 'person_keypoints_val.json', lspet / 'images')
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


@pytest.mark.parametrize('layout', [(1, 2, 0), (2, 1, 0)])
def test_lspet_round_trip(lspet, tmp_path, layout):
    "Annotations back to joints.mat and forth: all equal but boxes, whose source had more digits."
    published = {s: read_json(lspet / f'person_keypoints_{s}.json') for s in ('train', 'val')}
    for content in published.values():  # the first 300 will do
        content['images'] = [i for i in content['images'] if i['id'] <= 300]
        content['annotations'] = [a for a in content['annotations'] if a['id'] <= 300]
    joints = np.zeros((300, 14, 3))
    for a in (a for content in published.values() for a in content['annotations']):
        kp = np.array(a['keypoints']).reshape(14, 3)
        joints[a['id'] - 1] = kp[[CROWDPOSE.index(n) for n in LSP_KEYPOINTS]]
    joints[..., 2] = joints[..., 2] > 0
    savemat(tmp_path / 'joints.mat', dict(joints=joints.transpose(layout)))
    files = convert_lspet(tmp_path / 'joints.mat', lspet / 'images', tmp_path / 'out')
    for split, path in files.items():
        got, expected = read_json(path), published[split]
        assert list(got) == list(expected)
        assert all(got[k] == expected[k] for k in ('info', 'licenses', 'images', 'categories'))
        for a, b in zip(got['annotations'], expected['annotations'], strict=True):
            assert list(a) == list(b) and {k for k in a if a[k] != b[k]} <= {'bbox', 'area'}
            np.testing.assert_allclose(a['bbox'], b['bbox'], atol=.021)
            assert abs(a['area'] - b['area']) <= .53 * .021 * sum(b['bbox'][2:]) + .01
        assert len(PoseDataset(path, lspet / 'images')) == len(got['annotations'])


@pytest.mark.parametrize('name, message', [
    ('text', 'not a MATLAB file'), ('shape', "no array 'joints'"), ('name', "no array 'joints'"),
    ('none', 'no file'), ('good', 'no image .*im00001.jpg')])
def test_lspet_bad_files(tmp_path, name, message):
    (tmp_path / 'text.mat').write_text('no MATLAB file, but long enough to be read as one ' * 9)
    savemat(tmp_path / 'shape.mat', dict(joints=np.zeros((14, 2, 5))))
    savemat(tmp_path / 'name.mat', dict(joint=np.zeros((14, 3, 5))))
    savemat(tmp_path / 'good.mat', dict(joints=np.ones((14, 3, 5))))
    named = message if name == 'good' else f'{name}.mat.*{message}|{message}.*{name}.mat'
    with pytest.raises((ValueError, FileNotFoundError), match=named):
        convert_lspet(tmp_path / f'{name}.mat', tmp_path, tmp_path / 'out')
