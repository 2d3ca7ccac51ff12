"The synthetic generator: determinism, exact annotation, dials, clear errors, safe writing."
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import LIMIT, ROOT
from pycocotools.coco import COCO as CocoFile

from fsd_sdpose import synthetic as s
from fsd_sdpose.evaluation import crowd_index
from fsd_sdpose.skeletons import COCO, CROWDPOSE, Skeleton
from fsd_sdpose.synthetic import POSES, Scene, annotate, make_dataset, make_picture, mask_polygons

SMALL = dict(size=(96, 96), people=(1, 3))


def contents(root):
    files = [p for p in Path(root).rglob('*') if p.is_file()]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp('synthetic') / 'people'
    return make_dataset(root, 40, seed=3, size=(160, 192), people=(1, 4))


# ---- determinism

@pytest.mark.slow
def test_bytes_do_not_depend_on_run_or_process_count(tmp_path):
    one = contents(make_dataset(tmp_path / 'one', 70, seed=5, **SMALL).parent)
    again = contents(make_dataset(tmp_path / 'again', 70, seed=5, **SMALL).parent)
    two = contents(make_dataset(tmp_path / 'two', 70, seed=5, processes=2, **SMALL).parent)
    assert one == again == two
    assert len(one) == 71
    other = contents(make_dataset(tmp_path / 'other', 70, seed=6, **SMALL).parent)
    assert other['images/000000.jpg'] != one['images/000000.jpg']


def test_a_picture_does_not_depend_on_how_many_are_made(tmp_path):
    few = json.loads(make_dataset(tmp_path / 'few', 3, **SMALL).read_text())
    more = json.loads(make_dataset(tmp_path / 'more', 6, **SMALL).read_text())
    n = len(few['annotations'])
    assert more['annotations'][:n] == few['annotations'] and more['images'][:3] == few['images']


# ---- valid COCO, exact annotation

def test_pycocotools_reads_it(dataset):
    coco = CocoFile(str(dataset))
    category = coco.loadCats(coco.getCatIds())[0]
    assert tuple(category['keypoints']) == COCO.keypoints
    assert [[a - 1, b - 1] for a, b in category['skeleton']] == [list(p) for p in COCO.limb_index]
    assert len(coco.imgs) == 40 and len(coco.anns) > 60
    assert coco.dataset['info']['settings']['seed'] == 3
    for image in coco.imgs.values():
        picture = cv2.imread(str(dataset.parent / 'images' / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3) == (160, 192, 3)


def test_keypoints_boxes_areas_and_masks_agree(dataset):
    coco = CocoFile(str(dataset))
    levels = set()
    for ann in coco.anns.values():
        k = np.array(ann['keypoints']).reshape(-1, 3)
        on = k[:, 2] > 0
        assert set(k[:, 2]) <= {0, 1, 2} and ann['num_keypoints'] == on.sum()
        assert (k[~on] == 0).all()
        assert (k[on, :2] > -.51).all() and (k[on, :2] < (191.51, 159.51)).all()
        mask = coco.annToMask(ann)
        # the outline fills holes between limbs
        assert mask.sum() == pytest.approx(ann['area'], rel=.25, abs=25)
        corner, size = np.split(np.array(ann['bbox']), 2)
        inside = np.argwhere(mask)[:, ::-1] - corner
        assert (inside >= -1).all() and (inside <= size).all()
        joints = k[on, :2] - corner
        assert (joints >= -1.5).all() and (joints <= size + .5).all()
        # a joint may lie on the rim, and the outline within a pixel
        grown = cv2.dilate(mask, np.ones((5, 5), np.uint8))
        assert all(grown[round(y), round(x)] for x, y, v in k if v == 2)
        levels |= set(k[:, 2])
    assert levels == {0, 1, 2}


def test_outline_reproduces_a_mask():
    from pycocotools import mask as rle
    mask = np.zeros((80, 90), bool)
    cv2.ellipse(canvas := mask.astype(np.uint8), (40, 35), (25, 14), 30, 0, 360, 1, -1)
    back = rle.decode(rle.merge(rle.frPyObjects(mask_polygons(canvas > 0), 80, 90)))
    assert (back != canvas).sum() < .03 * canvas.sum()
    assert mask_polygons(mask) == []


def test_joints_lie_where_the_body_is_drawn():
    scene = Scene(size=(256, 192), people=1, occlusion=0., truncation=0.)
    for i in range(30):
        _, [p] = make_picture(scene, 1, i)
        body = cv2.dilate(p['body'].astype(np.uint8), np.ones((3, 3), np.uint8))
        assert (p['visible'] > 0).all()
        assert all(body[int(round(y)), int(round(x))] for x, y in p['joints']), i


def test_front_view_shows_the_face_and_back_view_hides_it():
    rng = np.random.default_rng(0)
    body, pose, look = s.sample_body(rng), s.sample_pose(rng, 'stand'), s.sample_look(rng)
    pose = pose | dict(head_yaw=0., head_pitch=0.)
    seen = {}
    for yaw in (0, 90, 180):
        joint, frame = s.pose_body(body, pose, yaw)
        layer = s.new_layer(np.full((256, 192, 3), 128))
        s.draw_person(layer, joint, frame, body, look, (96, 130), 110.)
        place = {k: p * (110, -110, 110) + (96, 130, 0) for k, p in joint.items()}
        seen[yaw] = {k: s._self_visible(layer.z, place[k], 110., k) for k in COCO.keypoints}
    face, trunk = ('nose', 'left_eye', 'right_eye'), ('shoulder', 'hip')
    assert all(seen[0][k] for k in (*face, *(f'{a}_{b}' for a in ('left', 'right') for b in trunk)))
    assert not any(seen[180][k] for k in face)
    assert all(seen[90][f'left_{k}'] != seen[90][f'right_{k}'] for k in ('eye', 'shoulder'))


def test_crowdpose_skeleton(tmp_path):
    data = json.loads(make_dataset(tmp_path / 'd', 6, skeleton=CROWDPOSE, **SMALL).read_text())
    assert tuple(data['categories'][0]['keypoints']) == CROWDPOSE.keypoints
    assert {len(a['keypoints']) for a in data['annotations']} == {42}
    scene = Scene(people=1, occlusion=0., truncation=0., poses=('stand', 'walk'))
    for i in range(10):
        (_, [a]), (_, [b]) = make_picture(scene, 0, i, COCO), make_picture(scene, 0, i, CROWDPOSE)
        np.testing.assert_array_equal(a['joints'][5:], b['joints'][:12])
        head, neck = b['joints'][CROWDPOSE.index('head')], b['joints'][CROWDPOSE.index('neck')]
        assert head[1] < a['joints'][:5, 1].min() < neck[1]


@pytest.mark.parametrize('kind', POSES)
def test_every_pose_can_be_drawn(kind):
    _, [p] = make_picture(Scene(size=(96, 96), people=1, poses=(kind,), truncation=0.), 0, 0)
    assert p['kind'] == kind and p['body'].sum() > 200


# ---- dials

@pytest.mark.slow
@pytest.mark.parametrize('people', [2, 4])
def test_crowd_raises_the_crowd_index(tmp_path, people):
    scene = dict(size=(128, 160), people=people, clutter=0., occlusion=0., truncation=0.)
    def mean(crowd):
        file = make_dataset(tmp_path / f'{crowd}', 25, seed=4, crowd=crowd, **scene)
        return np.mean(list(crowd_index(file).values()))
    index = [mean(crowd) for crowd in (0., .33, .67, 1.)]
    assert index[0] < .02 and index[3] > .4
    assert (np.diff(index) > 0).all(), index


def test_clutter_adds_edges_and_leaves_the_annotation_alone():
    base = Scene(people=2, degradation=0.)
    edges, notes = [], []
    for c in (0., .3, .6, 1.):
        made = [make_picture(replace(base, clutter=c), 2, i) for i in range(12)]
        edges.append(np.mean([(cv2.Canny(image, 100, 200) > 0).mean() for image, _ in made]))
        notes.append([annotate(p) for _, people in made for p in people])
    assert (np.diff(edges) > 0).all(), edges
    assert all(n == notes[0] for n in notes)


def test_occlusion_and_truncation_hide_joints():
    base = Scene(people=1, clutter=0., occlusion=0., truncation=0.)
    def share(level, **change):
        made = [make_picture(replace(base, **change), 0, i)[1] for i in range(25)]
        return np.mean([p['visible'] == level for (p,) in made])
    assert share(1, occlusion=1.) > share(1) + .05
    assert share(0) == 0 and share(0, truncation=1.) > .1


def test_no_people_is_a_background():
    image, people = make_picture(Scene(people=0), 0, 0)
    assert image.shape == (192, 192, 3) and people == []


# ---- errors

@pytest.mark.parametrize('change, message', [
    (dict(size=(10, 64)), 'size is'), (dict(size=(64., 64)), 'size is'),
    (dict(size=(64, 64, 3)), 'size is'), (dict(people=(3, 1)), 'people is'),
    (dict(people=-1), 'people is'), (dict(people=1.5), 'people is'),
    (dict(clutter=1.2), 'clutter lies in'), (dict(clutter=float('nan')), 'clutter lies in'),
    (dict(clutter='much'), 'clutter is'),
    (dict(crowd=(.9, .1)), 'crowd lies in'), (dict(occlusion=(0., 1.)), 'occlusion is one number'),
    (dict(truncation=-.1), 'truncation lies in'), (dict(degradation=2.), 'degradation lies in'),
    (dict(poses=('fly',)), 'poses is a list of some of stand'), (dict(poses=()), 'poses is a list'),
    (dict(poses='walk'), 'poses is a list'), (dict(num_images=0), 'num_images is a whole number'),
    (dict(num_images=2.5), 'num_images is'), (dict(seed=-1), 'seed'), (dict(quality=0), 'quality'),
    (dict(processes=0), 'processes is'), (dict(skeleton='coco'), 'skeleton is a Skeleton'),
    (dict(skeleton=Skeleton('hand', ('thumb_tip', 'palm'), (), (), (.1, .1), ())), "thumb_tip"),
])
def test_bad_settings_name_themselves(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_dataset(tmp_path / 'd', **(dict(num_images=2) | change))
    assert list(tmp_path.iterdir()) == []


# ---- writing

def test_finished_data_is_reused_and_other_data_refused(tmp_path):
    (tmp_path / 'd').mkdir()  # an empty folder may be filled
    file = make_dataset(tmp_path / 'd', 3, **SMALL)
    stamp = file.stat().st_mtime_ns
    assert make_dataset(tmp_path / 'd', 3, **SMALL) == file and file.stat().st_mtime_ns == stamp
    assert make_dataset(tmp_path / 'd', 3, processes=2, **SMALL).stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match='differs in num_images, seed.*overwrite=True'):
        make_dataset(tmp_path / 'd', 4, seed=1, **SMALL)
    assert file.stat().st_mtime_ns == stamp
    make_dataset(tmp_path / 'd', 4, seed=1, overwrite=True, **SMALL)
    assert len(json.loads(file.read_text())['images']) == 4
    assert [p.name for p in tmp_path.iterdir()] == ['d']


def test_a_partial_folder_is_not_taken_for_a_finished_one(tmp_path):
    root = tmp_path / 'd'
    def refused(why):
        with pytest.raises(FileExistsError, match=why):
            make_dataset(root, 3, **SMALL)
    (root / 'images').mkdir(parents=True)
    refused('no finished synthetic data set')
    (root / 'person_keypoints.json').write_text('{"info": {"sett')
    refused('no finished synthetic data set')
    make_dataset(root, 3, overwrite=True, **SMALL)
    (root / 'images' / '000001.jpg').unlink()
    refused('lacks 1 of its 3 pictures')


def test_a_killed_build_leaves_no_target(tmp_path):
    code = 'import sys; from fsd_sdpose.synthetic import make_dataset as m; m(sys.argv[1], 100_000)'
    child = subprocess.Popen([sys.executable, '-c', code, tmp_path / 'd'],
                             cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + LIMIT
        while not list(tmp_path.glob('.d-unfinished-*/new/images/*.jpg')):
            assert child.poll() is None, 'the build ended before it made a picture'
            assert time.monotonic() < end, 'the build did not start'
            time.sleep(.05)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert not (tmp_path / 'd').exists()
    assert make_dataset(tmp_path / 'd', 2, **SMALL).exists()


def test_a_failure_cleans_up(tmp_path, monkeypatch):
    monkeypatch.setattr('fsd_sdpose.synthetic.cv2.imwrite', lambda *a: False)
    with pytest.raises(OSError, match='could not write'):
        make_dataset(tmp_path / 'd', 2, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once(tmp_path):
    with multiprocessing.get_context('spawn').Pool(2) as pool:
        files = [pool.apply_async(make_dataset, (tmp_path / 'd', 20), SMALL) for _ in range(2)]
        files = [f.get(timeout=LIMIT) for f in files]
    assert files[0] == files[1]
    assert len(json.loads(files[0].read_text())['images']) == 20
    assert [p.name for p in tmp_path.iterdir()] == ['d']


@pytest.mark.slow
@pytest.mark.parametrize("way", ["script", "stdin"])
def test_a_plain_script_draws_with_several_processes(way, tmp_path):
    "Without the usual guard, and without a file: the script runs once."
    script = ("from fsd_sdpose.synthetic import make_dataset\nprint('once')\n"
              f"make_dataset({str(tmp_path / 'people')!r}, 70, size=(48, 48), processes=2)\n")
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "-" if way == "stdin" else tmp_path / "script.py"],
                          input=script if way == "stdin" else None, capture_output=True, text=True,
                          timeout=LIMIT, env=os.environ | dict(PYTHONPATH=str(ROOT)))
    assert (done.returncode, done.stdout) == (0, "once\n"), done.stderr
    assert len(list(tmp_path.glob("people/images/*.jpg"))) == 70
