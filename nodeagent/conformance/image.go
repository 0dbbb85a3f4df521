package conformance

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"
)

// probeImage is the image that most cases run.
const probeImage = "podsnap.test/conformance:1"

// image is a container image of one layer, or of one on top of another.
type image struct {
	base      []byte // a layer; nil is none
	user, dir string
	env       []string
	command   []string
	files     []tar.Header // in order; Name, Typeflag, Mode and what else counts
	bodies    map[string][]byte
}

// usualImage has the probe, a user by name, and things that try to win rights:
// a setuid program, one with file capabilities, device nodes.
func (r *rig) usualImage() image {
	img := image{user: "app", dir: "/work", env: []string{"A=image", "B=image"}, command: []string{"/bin/probe"}, bodies: map[string][]byte{}}
	for _, d := range []string{"bin", "etc", "work", "data", "root"} {
		img.folder(d)
	}
	img.files = append(img.files, tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777})
	img.add("etc/passwd", 0o644, []byte("root:x:0:0::/root:/bin/sh\napp:x:1000:2000::/:/bin/sh\n"))
	img.add("etc/group", 0o644, []byte("root:x:0:\napp:x:2000:\nextra:x:3000:app\nother:x:3001:root\n"))
	img.add("bin/probe", 0o755, r.probe)
	img.add("bin/suid", 0o6755, r.probe)
	img.add("bin/capable", 0o755, r.probe)
	// cap_sys_admin, cap_net_raw and all else, effective and permitted (VFS_CAP_REVISION_2).
	caps := "\x01\x00\x00\x02" + "\xff\xff\xff\xff" + "\x00\x00\x00\x00" + "\xff\x01\x00\x00" + "\x00\x00\x00\x00"
	img.files[len(img.files)-1].PAXRecords = map[string]string{"SCHILY.xattr.security.capability": caps}
	img.files = append(img.files,
		tar.Header{Name: "data/mem", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 1},
		tar.Header{Name: "data/kmsg", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 11},
		tar.Header{Name: "data/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "data/disk", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 254, Devminor: 0},
		tar.Header{Name: "data/loop", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 7, Devminor: 0},
	)
	return img
}

// plainImage has the probe in a layer that all such images share, and root
// for a user.
func (r *rig) plainImage() image {
	return image{base: r.base, user: "0", dir: "/work", env: []string{"A=image", "B=image"}, command: []string{"/bin/probe"}}
}

// baseLayer is the layer of plain images.
func baseLayer(probe []byte) ([]byte, error) {
	var img image
	img.folder("bin")
	img.folder("data")
	img.add("bin/probe", 0o755, probe)
	return img.layer()
}

func (i *image) add(name string, mode int64, body []byte) {
	i.files = append(i.files, tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(body))})
	if i.bodies == nil {
		i.bodies = map[string][]byte{}
	}
	i.bodies[name] = body
}

// folder adds a directory.
func (i *image) folder(name string) {
	i.files = append(i.files, tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755})
}

func (i *image) link(name, to string) {
	i.files = append(i.files, tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777})
}

// layer packs the files.
func (i *image) layer() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range i.files {
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := w.Write(i.bodies[h.Name]); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// archive packs the image as `docker save` does.
func (i *image) archive(ref string) ([]byte, error) {
	top, err := i.layer()
	if err != nil {
		return nil, err
	}
	layers := [][]byte{top}
	if i.base != nil {
		layers = [][]byte{i.base, top}
	}
	var names, diffs []string
	files := map[string][]byte{}
	for n, l := range layers {
		sum := sha256.Sum256(l)
		name := fmt.Sprintf("layer%d.tar", n)
		files[name] = l
		names, diffs = append(names, name), append(diffs, "sha256:"+hex.EncodeToString(sum[:]))
	}
	if files["config.json"], err = json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": time.Unix(0, 0).UTC(),
		"config": map[string]any{"User": i.user, "WorkingDir": i.dir, "Env": i.env, "Entrypoint": i.command},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	}); err != nil {
		return nil, err
	}
	if files["manifest.json"], err = json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{ref}, "Layers": names}}); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}
