// Package examples holds no code of its own: its test builds and calls every
// function of stack.yaml.
package examples

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"image"
	_ "image/jpeg"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/podsnap/podsnap/builder"
	"github.com/podsnap/podsnap/functions"
	"github.com/podsnap/podsnap/functions/stack"
)

var rewrite = flag.Bool("rewrite", false, "write the expected output anew")

// calls are the requests that the README shows, and what comes back.
var calls = []struct {
	function, path, input string
	code                  int
	output                string // file; "" is checked by look
	look                  func(t *testing.T, body []byte)
}{
	{"markdown", "/", "markdown/input.md", 200, "markdown/output.html", nil},
	{"jsonschema", "/", "jsonschema/input.json", 200, "", func(t *testing.T, b []byte) { t.Helper(); has(t, b, `{"valid":true}`) }},
	{"jsonschema", "/", "jsonschema/wrong.json", 422, "", func(t *testing.T, b []byte) {
		t.Helper()
		has(t, b, `"at":"/name"`)
		has(t, b, `"at":"/email"`)
		has(t, b, `"at":"/age"`)
	}},
	{"jsonschema", "/", "markdown/input.md", 400, "", func(t *testing.T, b []byte) { t.Helper(); has(t, b, "the body must be") }},
	{"thumbnail", "/?width=96", "thumbnail/input.jpg", 200, "", func(t *testing.T, b []byte) {
		t.Helper()
		c, format, err := image.DecodeConfig(bytes.NewReader(b))
		if err != nil || format != "jpeg" || c.Width != 96 || c.Height != 64 {
			t.Errorf("a %s of %d × %d, %v; want a jpeg of 96 × 64", format, c.Width, c.Height, err)
		}
	}},
	{"thumbnail", "/", "csvsum/input.csv", 415, "", func(t *testing.T, b []byte) { t.Helper(); has(t, b, "not a picture") }},
	{"thumbnail", "/?width=-1", "thumbnail/input.jpg", 400, "", func(t *testing.T, b []byte) { t.Helper(); has(t, b, "from 1 to 2000") }},
	{"csvsum", "/", "csvsum/input.csv", 200, "csvsum/output.txt", nil},
	{"wordcount", "/", "wordcount/input.txt", 200, "wordcount/output.txt", nil},
	{"wordcount", "/?top=1", "wordcount/input.txt", 200, "", func(t *testing.T, b []byte) {
		t.Helper()
		if n := bytes.Count(b, []byte("\n")); n != 2 {
			t.Errorf("%d lines, want 2: %s", n, b)
		}
	}},
	{"csvsum", "/", "markdown/input.md", 500, "", func(t *testing.T, b []byte) { t.Helper(); has(t, b, "the header has") }},
}

func has(t *testing.T, b []byte, part string) {
	t.Helper()
	if !bytes.Contains(b, []byte(part)) {
		t.Errorf("no %q in %s", part, b)
	}
}

func TestExamples(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("running an image's root folder needs root")
	}
	s, err := stack.Load("stack.yaml", func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Select("", "")
	if err != nil || len(list) < 5 {
		t.Fatalf("%d functions, %v", len(list), err)
	}
	b := builder.New(builder.Config{Watchdog: watchdog(t)})
	for _, f := range list {
		t.Run(f.Name, func(t *testing.T) {
			if errs := functions.Validate(f.Object()); len(errs) > 0 {
				t.Error(errs)
			}
			img, err := b.Build(t.Context(), s, f, t.Output())
			var fault *builder.SourceError
			if errors.As(err, &fault) && strings.Contains(fault.Summary, "cannot be downloaded") {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			url := serve(t, img, f.Environment)
			called := false
			for _, c := range calls {
				if c.function == f.Name {
					called = true
					call(t, url+c.path, c.input, c.code, c.output, c.look)
				}
			}
			if !called {
				t.Error("no call of this function is tested")
			}
		})
	}
}

func call(t *testing.T, url, input string, code int, output string, look func(*testing.T, []byte)) {
	t.Helper()
	in, err := os.ReadFile(input)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(url, "application/octet-stream", bytes.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != code {
		t.Errorf("%s with %s: %d %s, %v; want %d", url, input, res.StatusCode, got, err, code)
	}
	if look != nil {
		look(t, got)
		return
	}
	if *rewrite {
		if err := os.WriteFile(output, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(output); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s %v", url, got, want, err)
	}
}

// serve runs the image's program in the image's root folder, as its user, and
// answers with its address.
func serve(t *testing.T, img *builder.Image, env map[string]string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	config := unpack(t, img, root)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	var log bytes.Buffer
	cmd := exec.Command(config.Entrypoint[0], config.Entrypoint[1:]...)
	cmd.Dir, cmd.Stderr = config.WorkingDir, &log
	cmd.Env = append(config.Env, "port="+port, "metrics_port=0")
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("ended with %v\n%s", err, &log)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
			return "http://127.0.0.1:" + port
		}
		if ctx.Err() != nil {
			t.Fatalf("it does not listen: %v", err)
		}
	}
}

type imageConfig struct {
	Entrypoint, Env []string
	WorkingDir      string
}

// unpack reads the archive that `faas build --output` writes.
func unpack(t *testing.T, img *builder.Image, root string) imageConfig {
	t.Helper()
	var archive bytes.Buffer
	if err := builder.Archive(img, &archive); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	each(t, &archive, func(h *tar.Header, b []byte) { files[h.Name] = b })
	var manifest []struct {
		Config string
		Layers []string
	}
	var config struct{ Config imageConfig }
	if err := errors.Join(json.Unmarshal(files["manifest.json"], &manifest), json.Unmarshal(files[manifest[0].Config], &config)); err != nil {
		t.Fatal(err)
	}
	for _, name := range manifest[0].Layers {
		z, err := zstd.NewReader(bytes.NewReader(files[name]))
		if err != nil {
			t.Fatal(err)
		}
		each(t, z, func(h *tar.Header, b []byte) {
			to := filepath.Join(root, h.Name)
			var err error
			switch h.Typeflag {
			case tar.TypeDir:
				err = errors.Join(os.MkdirAll(to, 0o755), os.Chmod(to, h.FileInfo().Mode()))
			case tar.TypeSymlink:
				err = os.Symlink(h.Linkname, to)
			default:
				err = os.WriteFile(to, b, h.FileInfo().Mode())
			}
			if err != nil {
				t.Fatal(err)
			}
		})
		z.Close()
	}
	return config.Config
}

func each(t *testing.T, r io.Reader, do func(*tar.Header, []byte)) {
	t.Helper()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		do(h, b)
	}
}

// watchdog builds the program that shell functions run under.
func watchdog(t *testing.T) []byte {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "watchdog")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "../watchdog")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
