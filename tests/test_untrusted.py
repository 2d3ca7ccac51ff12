"""Files from elsewhere: nothing outside the folders that were given, no bombs, no silent damage."""
import copy
import io
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from fsd_sdpose import annotations, data
from fsd_sdpose.annotations import PeopleFile, header_size, read_image
from fsd_sdpose.data import PoseDataset, locked, shared_pictures
from fsd_sdpose.evaluation import read_ground_truth
from fsd_sdpose.files import write_json
from fsd_sdpose.skeletons import COCO

WIDTH, HEIGHT, PICTURES = 120, 90, 4
ESCAPE = '\x1b[31m'


def _person(n):
    xy = np.random.default_rng(n).uniform((20, 10), (80, 80), (17, 2))
    kp = np.column_stack([xy, np.full(17, 2)])
    return dict(id=n, image_id=n, category_id=1, iscrowd=0, bbox=[20, 10, 60, 70], area=2000.,
                keypoints=kp.ravel().tolist())


class Folder:
    "Four pictures of noise with one person each; picture 3 is the one that is tampered with."

    def __init__(self, root):
        self.root, self.images, self.file = root, root / 'images', root / 'people.json'
        self.images.mkdir()
        for n in range(1, PICTURES + 1):
            noise = np.random.default_rng(n).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            cv2.imwrite(str(self.picture(n)), noise)
        self.content = dict(
            images=[dict(id=n, file_name=f'{n}.png', width=WIDTH, height=HEIGHT)
                    for n in range(1, PICTURES + 1)],
            annotations=[_person(n) for n in range(1, PICTURES + 1)],
            categories=[dict(id=1, name='person', keypoints=list(COCO.keypoints))])
        self.write()

    def picture(self, n=3): return self.images / f'{n}.png'

    def write(self, image=None, person=None, everyone=lambda a: {}):
        "Write the file with changes of image 3, of person 3, and of everybody."
        content = copy.deepcopy(self.content)
        content['images'][2] |= image or {}
        content['annotations'][2] |= person or {}
        for a in content['annotations']:
            a |= everyone(a)
        self.file.write_text(json.dumps(content))
        return self

    def dataset(self, **kwargs): return PoseDataset(self.file, self.images, **kwargs)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


@pytest.fixture
def impatient():
    "Reading that never ends becomes an error."
    def stop(*_): raise AssertionError('still reading after a minute')
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)


def _message(error, call):
    "The message of an expected error: one line, nothing that a terminal obeys."
    with pytest.raises(error) as e:
        call()
    text = str(e.value)
    assert text.isprintable() and len(text) < 1000, repr(text)
    return text


# ---- names of pictures

BAD_NAMES = {
    'nul': 'a\0.png', 'line': 'a\n.png', 'escape': ESCAPE + 'a.png', 'csi': '\x9b2J.png',
    'surrogate': 'a\udc80.png', 'turned': 'a\u202egnp.exe', 'absolute': '/etc/passwd',
    'drive': r'C:\a.png', 'short drive': 'C:a.png', 'backslash': r'\a.png', 'up': '../outside.png',
    'inner up': 'a/../../outside.png', 'windows up': r'a\..\outside.png', 'only up': '..',
    'empty': '', 'folder': '.', 'long': 'a' * 5000, 'long escapes': ESCAPE * 2000}


@pytest.mark.parametrize('name', BAD_NAMES)
def test_names_that_leave_the_folder(folder, name):
    "The whole file is refused, with and without skip_bad, for training and for evaluation."
    folder.write(image=dict(file_name=BAD_NAMES[name]))
    for read in (folder.dataset, lambda: folder.dataset(skip_bad=True),
                 lambda: read_ground_truth(folder.file)):
        text = _message(ValueError, read)
        assert 'people.json: image 3 has the file name ' in text and 'below the image' in text


@pytest.mark.parametrize('name', ['two words.png', 'ä日本.png', 'sub/deep/er.png', '..a.png',
                                  'a..b/..c.png', './a.png', "it's 50%{}.png"])
def test_names_that_stay_inside(folder, name):
    (folder.images / name).parent.mkdir(parents=True, exist_ok=True)
    folder.picture().rename(folder.images / name)
    assert len(folder.write(image=dict(file_name=name)).dataset()) == PICTURES


@pytest.mark.parametrize('where, change', [
    ('image', dict(id=ESCAPE)), ('image', dict(width=ESCAPE)), ('person', dict(id=ESCAPE)),
    ('person', dict(id=[ESCAPE] * 9999)), ('person', dict(image_id=ESCAPE)),
    ('person', dict(bbox=ESCAPE)), ('person', dict(bbox=[ESCAPE] * 4)),
    ('person', dict(iscrowd=ESCAPE)), ('person', dict(bbox=[ESCAPE * 999] * 999))])
def test_messages_are_printable(folder, where, change):
    folder.write(**{where: change})
    assert 'people.json: ' in _message(ValueError, folder.dataset)


# ---- links

def _link_to(folder, kind):
    "Replace picture 3 by a link that leads out of the folder; the picture it leads to."
    outside = folder.root / 'outside'
    outside.mkdir()
    secret = folder.picture().rename(outside / '3.png')
    if kind == 'folder':
        (folder.images / 'sub').symlink_to(outside)
        folder.write(image=dict(file_name='sub/3.png'))
    elif kind == 'chain':
        (folder.images / 'first').symlink_to('second')
        (folder.images / 'second').symlink_to(outside)
        folder.picture().symlink_to('first/3.png')
    else:
        folder.picture().symlink_to(secret if kind == 'file' else '../outside/3.png')
    return secret


@pytest.mark.parametrize('use_cache', [False, True])
@pytest.mark.parametrize('kind', ['file', 'relative', 'folder', 'chain'])
def test_links_out_of_the_folder(folder, kind, use_cache, monkeypatch):
    "They are refused, or left out and never opened."
    _link_to(folder, kind)
    opened, read = [], annotations.picture_bytes
    monkeypatch.setattr(annotations, 'picture_bytes', lambda p: opened.append(str(p)) or read(p))
    cache = folder.root / 'cache' if use_cache else None
    text = _message(ValueError, lambda: folder.dataset(cache=cache))
    assert '3.png is a link that leads out of the image folder (annotation 3)' in text
    for _ in range(2):
        ds = folder.dataset(skip_bad=True, cache=cache)
        assert [s['ann_id'] for s in ds.skipped] == [3] and ds.lost == [3]
        assert 'leads out' in ds.skipped[0]['reason'] and [s['ann_id'] for s in ds] == [1, 2, 4]
        assert not any('3.png' in name for name in opened)


def test_links_within_the_folder(folder):
    "And the folder itself may be a link."
    before = [s['image'] for s in folder.dataset()]
    (folder.images / 'sub').mkdir()
    folder.picture().rename(folder.images / 'sub/3.png')
    (folder.images / 'same').symlink_to('sub')
    folder.picture().symlink_to(folder.images / 'same/3.png')
    (folder.root / 'link').symlink_to(folder.images)
    for root in (folder.images, folder.root / 'link'):
        after = PoseDataset(folder.file, root)
        assert all(s['image'].equal(b) for s, b in zip(after, before, strict=True))


@pytest.mark.parametrize('target', ['nowhere.png', '3.png'])
def test_broken_and_circular_links_are_missing(folder, target):
    folder.picture().unlink()
    folder.picture().symlink_to(target)
    assert 'no image' in _message(FileNotFoundError, folder.dataset)


def test_a_folder_whose_name_begins_alike_is_outside(folder):
    (folder.root / 'images2').mkdir()
    folder.picture().rename(folder.root / 'images2/3.png')
    folder.picture().symlink_to(folder.root / 'images2/3.png')
    assert 'leads out' in _message(ValueError, folder.dataset)


# ---- what is no picture

def _socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir, _socket], ids=['pipe', 'folder', 'socket'])
def test_only_regular_files_are_opened(folder, make, impatient):
    folder.picture().unlink()
    make(folder.picture())
    assert 'no regular file' in _message(ValueError, lambda: read_image(folder.picture()))
    assert 'annotation 3' in _message(ValueError, lambda: folder.dataset()[2])
    assert [s['ann_id'] for s in folder.dataset(skip_bad=True)] == [1, 2, 4]


@pytest.mark.parametrize('device', ['/dev/zero', '/dev/null', '/dev/tty'])
def test_devices_are_not_opened(device, impatient):
    assert 'no regular file' in _message(ValueError, lambda: read_image(device))


def test_huge_files_are_not_read(folder):
    os.truncate(folder.picture(), annotations.MAX_BYTES + 1)  # takes no room on the disk
    assert 'bytes, more than the 300,000,000' in _message(ValueError, lambda: folder.dataset()[2])
    assert [s['ann_id'] for s in folder.dataset(skip_bad=True).skipped] == [3]


# ---- bombs

def png_bomb(edge):
    "A small file that unpacks to edge x edge pixels, one bit each."
    def chunk(name, content):
        body = name + content
        return struct.pack('>I', len(content)) + body + struct.pack('>I', zlib.crc32(body))
    pack, row = zlib.compressobj(9), bytes(1 + edge // 8)
    rows = b''.join(pack.compress(row * 1000) for _ in range(edge // 1000)) + pack.flush()
    header = struct.pack('>IIBBBBB', edge, edge, 1, 0, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', rows)
            + chunk(b'IEND', b''))


MEASURE = """
import sys, time
from fsd_sdpose.annotations import read_image
def most_memory():
    with open('/proc/self/status') as f:
        return next(int(line.split()[1]) for line in f if line.startswith('VmHWM'))
def measured(path):
    before, start = most_memory(), time.perf_counter()
    try:
        read_image(path)
    except ValueError as e:
        print(e, file=sys.stderr)
    return time.perf_counter() - start, most_memory() - before
measured(sys.argv[1])
print(*(v for path in sys.argv[2:] for v in measured(path)))
"""


def test_a_bomb_costs_less_than_a_picture(tmp_path):
    "Refusing 30,000 x 30,000 px takes less time, and less memory, than to read 2,000 x 2,000."
    paths = [tmp_path / name for name in ('first.png', 'bomb.png', 'good.png')]
    for path in (paths[0], paths[2]):
        edge = 20 if path == paths[0] else 2000
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (edge, edge, 3), np.uint8))
    paths[1].write_bytes(png_bomb(30_000))
    assert paths[1].stat().st_size < 150_000
    if not os.path.exists('/proc/self/status'):
        pytest.skip('this system does not say how much memory a process took')
    done = subprocess.run([sys.executable, '-c', MEASURE, *paths], capture_output=True, text=True)
    bomb_time, bomb_memory, time_of_good, memory_of_good = map(float, done.stdout.split())
    assert 'stored as 30000x30000 px, more than the 100,000,000' in done.stderr
    assert bomb_time < time_of_good and bomb_memory < memory_of_good


@pytest.mark.parametrize('edge', [30_000, 40_000])
@pytest.mark.parametrize('stated', [True, False])
def test_bombs_are_one_line_or_left_out(folder, edge, stated):
    folder.picture().write_bytes(png_bomb(edge))
    folder.write(image=dict(width=edge, height=edge) if stated else None)
    text = _message(ValueError, lambda: folder.dataset()[2])
    assert f'3.png is stored as {edge}x{edge} px' in text and 'annotation 3' in text
    assert ('more than the' if stated else f'say {WIDTH}x{HEIGHT}') in text
    assert [s['ann_id'] for s in folder.dataset(skip_bad=True)] == [1, 2, 4]


@pytest.mark.parametrize('use_cache', [False, True])
def test_errors_of_the_decoder(folder, use_cache, monkeypatch):
    "OpenCV has a limit of its own and raises an error of its own."
    monkeypatch.setattr(annotations, 'MAX_PIXELS', 10**12)
    folder.picture().write_bytes(png_bomb(40_000))
    folder.write(image=dict(width=40_000, height=40_000))
    cache = folder.root / 'cache' if use_cache else None
    text = _message(ValueError, lambda: [*folder.dataset(cache=cache)])
    assert '3.png is not a readable image' in text and 'annotation 3' in text
    assert [s['ann_id'] for s in folder.dataset(cache=cache, skip_bad=True)] == [1, 2, 4]


CLAIMS = {  # kind -> where width and height stand, and how they are written
    'png': (16, '>II'), 'gif': (6, '<HH'), 'bmp': (18, '<ii')}


@pytest.mark.parametrize('kind', CLAIMS)
def test_claims_of_a_header(tmp_path, kind):
    at, form = CLAIMS[kind]
    content = bytearray(cv2.imencode(f'.{kind}', np.zeros((40, 60, 3), np.uint8))[1].tobytes())
    content[at:at + struct.calcsize(form)] = struct.pack(form, 30_000, 20_000)
    (tmp_path / f'a.{kind}').write_bytes(content)
    text = _message(ValueError, lambda: read_image(tmp_path / f'a.{kind}'))
    assert '30000x20000 px, more than' in text


KINDS = {
    'jpeg': {}, 'progressive jpeg': dict(progressive=True), 'png': {}, 'webp': {},
    'lossless webp': dict(lossless=True),
    'extended webp': dict(exif=b'Exif\0\0II*\0\x08\0\0\0\0\0'),
    'tiff': {}, 'packed tiff': dict(compression='tiff_lzw'), 'bmp': {}, 'gif': {}}


@pytest.mark.parametrize('mode', ['RGB', 'L', '1', 'P'])
@pytest.mark.parametrize('size', [(60, 40), (1, 1), (2, 3000)])
@pytest.mark.parametrize('kind', KINDS)
def test_headers_agree_with_the_decoder(tmp_path, kind, size, mode):
    "And the pixels are those of OpenCV."
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    picture, content = Image.fromarray(noise), io.BytesIO()
    picture = picture.quantize(8) if mode == 'P' else picture.convert(mode)
    if kind.split()[-1] in ('jpeg', 'webp') and mode in '1P':
        picture = picture.convert('RGB')
    picture.save(content, kind.split()[-1], **KINDS[kind])
    content = content.getvalue()
    assert header_size(content) == size
    (tmp_path / 'a').write_bytes(content)
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert (read_image(tmp_path / 'a', size) == expected).all()
    for end in range(0, min(len(content), 64)):
        header_size(content[:end])  # no error of its own


# ---- numbers

def _joint(value, at=0):
    keypoints = _person(3)['keypoints']
    return dict(keypoints=[*keypoints[:at], value, *keypoints[at + 1:]])


BAD_NUMBERS = {
    'text box': ('not numbers', dict(bbox=['0', '0', '10', '10'])),
    'text in a box': ('not numbers', dict(bbox=[0, 0, 10, '10'])),
    'truth in a box': ('not numbers', dict(bbox=[0, 0, 10, True])),
    'text joint': ('not numbers', _joint('30')), 'none joint': ('not numbers', _joint(None)),
    'true flag': ('not numbers', _joint(True, 2)), 'huge joint': ('beyond', _joint(1e300)),
    'far joint': ('beyond', _joint(-1.1e6)), 'endless joint': ('not numbers', _joint(10**400)),
    'huge box': ('beyond 1,000,000', dict(bbox=[0, 0, 1e300, 10])),
    'far box': ('beyond 1,000,000', dict(bbox=[-2e6, 0, 3e6, 10])),
    'text area': ('not numbers', dict(area='9')), 'true area': ('not numbers', dict(area=True)),
    'list area': ('not finite', dict(area=[9])), 'huge area': ('beyond', dict(area=1e300)),
    'negative area': ('negative size', dict(area=-5)), 'no': ("iscrowd 'no'", dict(iscrowd='no')),
    'crowd 2': ('iscrowd 2', dict(iscrowd=2)), 'crowd list': ('iscrowd', dict(iscrowd=[1])),
    'true image': ('image id True', dict(image_id=True)), 'true id': ('id True', dict(id=True))}


@pytest.mark.parametrize('name', BAD_NUMBERS)
def test_what_is_no_number(folder, name):
    reason, change = BAD_NUMBERS[name]
    folder.write(person=change)
    text = _message(ValueError, folder.dataset)
    assert f'people.json: annotation {change.get("id", 3)} ' in text and reason in text
    ds = folder.dataset(skip_bad=True)
    assert len(ds) == PICTURES - 1 and [s['ann_id'] for s in ds.skipped] == [change.get('id', 3)]
    with pytest.raises(ValueError, match='annotation'):
        read_ground_truth(folder.file)


@pytest.mark.parametrize('change', [
    dict(iscrowd=None), dict(iscrowd=False), dict(iscrowd=0.), dict(area=None), dict(area=0.5),
    _joint(2., 2), _joint(-999_999), dict(bbox=[-500_000, 0, 1_000_000, 10])])
def test_odd_but_possible_numbers(folder, change):
    assert len(folder.write(person=change).dataset()) == PICTURES


@pytest.mark.parametrize('change', [
    dict(bbox=['1', '2', '3', '4']), dict(bbox=[1, 2, 3, True]), dict(score='.9'),
    dict(score=True), dict(image_id=True), dict(bbox=[0, 0, 1e300, 5]), dict(score=10**400)])
def test_what_is_no_detection(folder, change):
    box = dict(image_id=1, category_id=1, bbox=[5, 5, 50, 60], score=.5)
    write_json(folder.root / 'found.json', [box, box | change])
    text = _message(ValueError, lambda: folder.dataset(boxes=folder.root / 'found.json'))
    assert 'found.json: entry 1 ' in text
    assert len(folder.dataset(boxes=folder.root / 'found.json', skip_bad=True)) == 1


# ---- suspicious files

def _corners(a): x, y, w, h = a['bbox']; return dict(bbox=[x, y, x + w, y + h])  # noqa: E702
def _centre(a): x, y, w, h = a['bbox']; return dict(bbox=[x + w / 2, y + h / 2, w, h])  # noqa: E702
def _joints(a, how):
    kp = np.reshape(a['keypoints'], (-1, 3))
    return dict(keypoints=np.column_stack([how(kp[:, :2]), kp[:, 2]]).ravel().tolist())


SUSPICIOUS = {
    'boxes leave their image': _corners, 'joints lie outside their box': _centre,
    'joints lie within 1 px': lambda a: _joints(a, lambda xy: xy / [WIDTH, HEIGHT]),
    '100% of 68 labelled joints': lambda a: _joints(a, lambda xy: xy * [1, 0])}


@pytest.mark.parametrize('text', SUSPICIOUS)
def test_suspicious_files_are_read_with_a_warning(folder, text):
    folder.write(everyone=lambda a: dict(bbox=[60, 40, 60, 50]))  # joints partly outside
    folder.content = json.loads(folder.file.read_text())
    for a in folder.content['annotations']:
        a |= _joints(a, lambda xy: np.clip(xy, [60, 40], None))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        folder.write().dataset()
    with pytest.warns(UserWarning) as said:
        assert len(folder.write(everyone=SUSPICIOUS[text]).dataset()) == PICTURES
    assert sum(text in str(w.message) for w in said) == 1
    assert all(str(w.message).startswith(f'{folder.file}: ') for w in said)


SETS = {'lspet': 'person_keypoints_val', 'coco_sample': 'test_coco',
        'crowdpose_sample': 'test_crowdpose', 'ochuman_sample': 'test_ochuman'}


@pytest.mark.parametrize('name', SETS)
def test_limits_lie_between_right_and_wrong(lspet, tmp_path, name):
    "Real sets have a third of what is warned of, or less; misread boxes have 1.9 times, or more."
    file = lspet.parent / name / f'{SETS[name]}.json'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        shares = annotations.box_shares(PeopleFile(file).people)
    assert shares['boxes_leaving_image'] < annotations.MOST_BOXES / 3
    assert shares['joints_outside_box'] < annotations.MOST_JOINTS / 3
    content = json.loads(file.read_text())
    for change, field, limit in ((_corners, 'boxes_leaving_image', annotations.MOST_BOXES),
                                 (_centre, 'joints_outside_box', annotations.MOST_JOINTS)):
        people = [a | change(a) for a in content['annotations']]
        write_json(tmp_path / 'wrong.json', content | dict(annotations=people))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            wrong = PeopleFile(tmp_path / 'wrong.json', skip_bad=True).people
        assert annotations.box_shares(wrong)[field] > 1.9 * limit


# ---- crop caches

def _zeroed(content, cache):
    half = int(cache.offsets[-1]) // 2
    return bytes(half) + content[half:]


def _flipped(at):
    def damage(content, cache):
        content = bytearray(content)
        content[at] ^= 1
        return bytes(content)
    return damage


@pytest.mark.parametrize('damage', [_zeroed, _flipped(999), _flipped(-40), _flipped(-20),
                                    _flipped(-10)])
def test_a_damaged_cache_is_never_used(folder, damage):
    def make(): return folder.dataset(cache=folder.root / 'cache')
    ds = make()
    path, before = ds.cache.path, [s['image'] for s in ds]
    whole = path.read_bytes()
    path.write_bytes(damage(whole, ds.cache))
    with pytest.warns(UserWarning, match=f'{path.name} (holds damaged|is incomplete)') as said:
        again = make()
    assert len(said) == 1 and path.read_bytes() == whole
    assert all(s['image'].equal(b) for s, b in zip(again, before, strict=True))


def test_of_a_large_cache_a_sample_is_checked(folder, monkeypatch):
    ds = folder.dataset(cache=folder.root / 'cache')
    monkeypatch.setattr(data, 'CHECKED_BYTES', ds.cache.offsets[-1] // 2)
    ds.cache.path.write_bytes(_zeroed(ds.cache.path.read_bytes(), ds.cache))
    faults = [data.cache_fault(ds.cache.path, ds.cache.offsets, seed) for seed in range(20)]
    assert all(f is None or 'of 2 checked' in f for f in faults)
    assert any('(1 of' in (f or '') for f in faults) and any('(2 of' in (f or '') for f in faults)


@pytest.mark.parametrize('damage', [lambda p: p.unlink(), lambda p: os.truncate(p, 5000)])
def test_a_cache_that_disappears_while_in_use(folder, damage):
    "A worker says what happened; so does a comparison."
    ds = folder.dataset(cache=folder.root / 'cache')
    worker = pickle.loads(pickle.dumps(ds))
    damage(ds.cache.path)
    for use in (lambda: worker[0], lambda: shared_pictures(ds, ds)):
        assert '.crops is gone or was changed while' in _message(FileNotFoundError, use)


def test_a_deleted_cache_does_not_disturb_who_reads_it(folder):
    ds = folder.dataset(cache=folder.root / 'cache')
    before = ds[0]['image']
    ds.cache.path.unlink()
    assert ds[0]['image'].equal(before)


def test_locks_exclude_each_other_and_go_away(tmp_path):
    inside, most = [], []
    def work():
        for _ in range(30):
            with locked(tmp_path / 'a.lock'):
                inside.append(1)
                most.append(len(inside))
                time.sleep(.0002)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(most) == 180 and max(most) == 1 and not list(tmp_path.iterdir())


# ---- pictures in two datasets

@pytest.mark.parametrize('caches', [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_shared_pictures(folder, tmp_path, caches):
    "A copy under another name is found; saved in another way, it is found by two caches."
    (tmp_path / 'b').mkdir()
    other = Folder(tmp_path / 'b')
    for n in (1, 2):
        noise = np.random.default_rng(50 + n).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(other.picture(n)), noise)
    other.picture(4).write_bytes(folder.picture(1).read_bytes())
    cv2.imwrite(str(other.picture(3)), cv2.imread(str(other.picture(3))),
                [cv2.IMWRITE_PNG_COMPRESSION, 0])
    a, b = (f.dataset(cache=f.root / 'cache' if c else None)
            for f, c in zip((folder, other), caches, strict=True))
    expected = [('3.png', '3.png')] if all(caches) else []
    assert shared_pictures(a, b) == [*expected, ('1.png', '4.png')]
    other.picture(4).write_bytes(b'')
    b = other.dataset(cache=other.root / 'cache' if caches[1] else None, skip_bad=True)
    assert shared_pictures(a, b) == expected
