package builder

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// nobody is the user that functions run as.
const nobody = 65532

// maxHandler bounds a handler's folder, bytes.
const maxHandler = 256 << 20

// tree is the content of a layer: sorted, without times, owned by root, so that
// equal content is an equal layer.
type tree map[string]entry

type entry struct {
	mode    fs.FileMode // of a file or folder
	content []byte
	link    string // of a symbolic link
	dir     bool
}

func (t tree) file(name string, mode fs.FileMode, content []byte) {
	t[name] = entry{mode: mode, content: content}
}
func (t tree) folder(name string, mode fs.FileMode) { t[name] = entry{mode: mode, dir: true} }
func (t tree) symlink(name, to string)              { t[name] = entry{link: to} }

// copy takes a folder of the host in below at. Links are taken as links if
// they stay inside, and refused otherwise.
func (t tree) copy(at, from string) error {
	total := int64(0)
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		if d.IsDir() && rel != "." && strings.HasPrefix(d.Name(), ".git") {
			return filepath.SkipDir
		}
		to := path.Join(at, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			t.folder(to, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(p)
			if err != nil {
				return err
			}
			if filepath.IsAbs(link) || !filepath.IsLocal(filepath.Join(filepath.Dir(rel), link)) {
				return fmt.Errorf("%s is a link to %s, which is outside the handler's folder", p, link)
			}
			t.symlink(to, link)
		case d.Type().IsRegular():
			info, err := d.Info()
			if err != nil {
				return err
			}
			if total += info.Size(); total > maxHandler {
				return fmt.Errorf("the handler's folder %s has over %d MiB", from, maxHandler>>20)
			}
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			t.file(to, 0o644|info.Mode()&0o111, b)
		default:
			return fmt.Errorf("%s is neither a file, a folder nor a link", p)
		}
		return nil
	})
}

// layer makes a layer of it. It is compressed quickly: it is read where it was
// made.
func (t tree) layer() (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	names := make([]string, 0, len(t))
	for n := range t {
		for dir := path.Dir(n); dir != "."; dir = path.Dir(dir) {
			if _, ok := t[dir]; !ok && !slices.Contains(names, dir) {
				names = append(names, dir)
			}
		}
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		e, ok := t[n]
		if !ok {
			e = entry{mode: 0o755, dir: true}
		}
		h := &tar.Header{Name: n, Mode: int64(e.mode.Perm()), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if e.mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		switch {
		case e.dir:
			h.Typeflag, h.Name = tar.TypeDir, n+"/"
		case e.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.content))
		}
		if len(n) > 100 || len(e.link) > 100 {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	b := buf.Bytes()
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
		tarball.WithCompressionLevel(gzip.BestSpeed))
}

// base is what every function's root has: a user, certificates, a place for
// temporary files.
func base() tree {
	t := tree{}
	t.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65532:65532:nobody:/home/nobody:/bin/sh\n"))
	t.file("etc/group", 0o644, []byte("root:x:0:\nnobody:x:65532:\n"))
	t.folder("tmp", 0o777|fs.ModeSticky)
	t.folder("home/nobody", 0o755)
	if b, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt"); err == nil {
		t.file("etc/ssl/certs/ca-certificates.crt", 0o644, b)
	}
	return t
}

// assemble makes an image of layers, the lowest first.
func assemble(conf v1.Config, arch string, trees ...tree) (v1.Image, error) {
	img := empty.Image
	for _, t := range trees {
		l, err := t.layer()
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			return nil, err
		}
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Config = "linux", arch, conf
	c.Created = v1.Time{Time: time.Unix(0, 0)}
	c.Config.User = fmt.Sprint(nobody)
	c.Config.ExposedPorts = map[string]struct{}{"8080/tcp": {}}
	return mutate.ConfigFile(img, c)
}
