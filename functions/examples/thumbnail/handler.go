// Package function makes small pictures of big ones.
package function

import (
	"fmt"
	"image"
	"image/draw"
	_ "image/gif" // read as well
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"strconv"
)

const (
	maxBody   = 16 << 20
	maxPixels = 50_000_000 // a small file may be a picture of many gigabytes
	maxWidth  = 2000
)

// Handle answers with the picture in the request's body, as wide as the query
// says (?width=160) and as high as its shape asks. A PNG stays a PNG; all else
// becomes a JPEG.
func Handle(w http.ResponseWriter, r *http.Request) {
	width := 160
	if s := r.URL.Query().Get("width"); s != "" {
		var err error
		if width, err = strconv.Atoi(s); err != nil || width < 1 || width > maxWidth {
			http.Error(w, fmt.Sprintf("width must be a number from 1 to %d", maxWidth), http.StatusBadRequest)
			return
		}
	}
	picture, format, err := read(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "not a picture that can be read: "+err.Error(), http.StatusUnsupportedMediaType)
		return
	}
	small := shrink(picture, width)
	if format == "png" {
		w.Header().Set("Content-Type", "image/png")
		_ = png.Encode(w, small)
		return
	}
	w.Header().Set("Content-Type", "image/jpeg")
	_ = jpeg.Encode(w, small, &jpeg.Options{Quality: 82})
}

// read looks at the size before it makes room for the pixels.
func read(r io.Reader) (image.Image, string, error) {
	var seen head
	c, _, err := image.DecodeConfig(io.TeeReader(r, &seen))
	if err != nil {
		return nil, "", err
	}
	if c.Width*c.Height > maxPixels {
		return nil, "", fmt.Errorf("%d × %d pixels are too many", c.Width, c.Height)
	}
	return image.Decode(io.MultiReader(&seen, r))
}

// head keeps what was read to find the size.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p...)
	return len(p), nil
}

func (h *head) Read(p []byte) (int, error) {
	if len(*h) == 0 {
		return 0, io.EOF
	}
	n := copy(p, *h)
	*h = (*h)[n:]
	return n, nil
}

// shrink averages the pixels that fall on each new one. A picture that is
// narrower already stays as it is.
func shrink(from image.Image, width int) image.Image {
	b := from.Bounds()
	if b.Dx() <= width {
		return from
	}
	all := image.NewRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	draw.Draw(all, all.Bounds(), from, b.Min, draw.Src)
	height := max(1, b.Dy()*width/b.Dx())
	to := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		top, bottom := y*b.Dy()/height, (y+1)*b.Dy()/height
		for x := range width {
			left, right := x*b.Dx()/width, (x+1)*b.Dx()/width
			copy(to.Pix[to.PixOffset(x, y):], average(all, left, top, right, bottom))
		}
	}
	return to
}

// average is the mean colour of an area, in the four bytes of image.RGBA.
func average(from *image.RGBA, left, top, right, bottom int) []byte {
	var sum [4]int
	for y := top; y < bottom; y++ {
		row := from.Pix[from.PixOffset(left, y):from.PixOffset(right, y)]
		for i, v := range row {
			sum[i%4] += int(v)
		}
	}
	n := (right - left) * (bottom - top)
	return []byte{byte(sum[0] / n), byte(sum[1] / n), byte(sum[2] / n), byte(sum[3] / n)}
}
