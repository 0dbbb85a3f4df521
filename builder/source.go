package builder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// What a handler's folder may hold.
const (
	maxFiles = 20_000
	maxBytes = 256 << 20
)

// sourceFile is a file of a handler, path relative to its folder.
type sourceFile struct {
	path       string
	executable bool
	content    []byte
}

// collect reads a handler's folder, and what is copied beside it. Version
// control's folders are left out; links must stay inside the folder.
func collect(dir string, more []string) ([]sourceFile, error) {
	c := collector{}
	if err := c.folder(dir, ""); err != nil {
		return nil, err
	}
	for _, m := range more {
		info, err := os.Stat(m)
		switch {
		case err != nil:
			return nil, fmt.Errorf("configuration.copy: %w", err)
		case info.IsDir():
			err = c.folder(m, filepath.Base(m))
		default:
			err = c.folder(filepath.Dir(m), "", filepath.Base(m))
		}
		if err != nil {
			return nil, fmt.Errorf("configuration.copy: %w", err)
		}
	}
	return c.files, nil
}

type collector struct {
	files []sourceFile
	bytes int64
}

func (c *collector) folder(dir, under string, only ...string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(p string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == ".git" || e.Name() == ".hg" || e.Name() == ".svn"):
			return fs.SkipDir
		case e.IsDir() && p != "." && only != nil:
			return fs.SkipDir
		case e.IsDir(), only != nil && p != only[0]:
			return nil
		}
		return c.file(root, p, path.Join(under, p), dir)
	})
}

func (c *collector) file(root *os.Root, p, to, dir string) error {
	info, err := root.Stat(p) // follows links, but not out of the folder
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, p), err)
	}
	if info.IsDir() {
		return &SourceError{Summary: filepath.Join(dir, p) + " is a link to a folder: copy the folder instead"}
	}
	if !info.Mode().IsRegular() {
		return &SourceError{Summary: filepath.Join(dir, p) + " is not a regular file"}
	}
	if c.bytes += info.Size(); c.bytes > maxBytes || len(c.files) >= maxFiles {
		return &SourceError{Summary: fmt.Sprintf("%s holds more than %d files or %d MiB", dir, maxFiles, maxBytes>>20)}
	}
	b, err := root.ReadFile(p)
	if err != nil {
		return err
	}
	c.files = append(c.files, sourceFile{path: to, executable: info.Mode()&0o111 != 0, content: b})
	return nil
}

// write puts source files into a folder.
func write(dir string, files []sourceFile) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range files {
		if err := root.MkdirAll(path.Dir(f.path), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(f.path, f.content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func find(files []sourceFile, name string) *sourceFile {
	for i := range files {
		if files[i].path == name {
			return &files[i]
		}
	}
	return nil
}

// workFolder is a build's temporary folder in a tool's output: not always this
// build's, because go vet's findings come from a cache.
var workFolder = regexp.MustCompile(`[^\s:]*` + workPrefix + `[0-9]+/`)

// place begins a line about a file of the handler.
var place = regexp.MustCompile(`^(\./)?[^\s/:][^\s:]*:\d+`)

// relocate makes a tool's file names those of the handler's folder.
func relocate(output, dir string) string {
	var out strings.Builder
	for line := range strings.Lines(output) {
		line = workFolder.ReplaceAllString(line, "./")
		line = strings.TrimPrefix(line, "vet: ")
		if strings.HasPrefix(line, "# ") || strings.HasPrefix(line, "go: downloading ") {
			continue
		}
		if place.MatchString(line) {
			line = dir + string(filepath.Separator) + strings.TrimPrefix(line, "./")
		}
		out.WriteString(line)
	}
	return out.String()
}

func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }

var errNoTool = errors.New("not found")
