/* A camera simulated on the host, for a process that loads this library with LD_PRELOAD.
 *
 * CAMERA_FRAMES names a file of raw pictures, CAMERA_FORMAT is "FOURCC:HEIGHT:WIDTH:BYTES". The
 * camera is /dev/video42: it replies like a V4L2 driver, delivers a picture every 100 ms, and is
 * unplugged after the last one. It is stricter than a driver: if a buffer is queued twice, or taken
 * before the camera streams, the process ends with status 99. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { kBuffers = 4, kPeriod = 100 * 1000 * 1000 /* ns */ };

static const char kDevice[] = "/dev/video42";
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int device = -1, frames = -1, streaming, queue[kBuffers], queued;
static unsigned height, width, bytes, sequence;
static char format[5];
static struct timespec due;

static void fail(const char* text) {
  fprintf(stderr, "stand-in: %s\n", text);
  _exit(99);
}

static int is_camera(const char* path) { return strcmp(path, kDevice) == 0; }

static size_t page_bytes(void) { return ((size_t)bytes + 4095) / 4096 * 4096; }

/* Buffers are in a file in memory, so the caller's mmap and poll work on it. */
static int open_camera(void) {
  const char* about = getenv("CAMERA_FORMAT");
  if (about == NULL || sscanf(about, "%4s:%u:%u:%u", format, &height, &width, &bytes) < 1) fail("no CAMERA_FORMAT");
  if (sscanf(about + 4, ":%u:%u:%u", &height, &width, &bytes) != 3) fail("CAMERA_FORMAT is damaged");
  if (device < 0) device = memfd_create("camera", 0);
  if (ftruncate(device, (off_t)(kBuffers * page_bytes())) != 0) fail("no memory");
  return device;
}

#define NEXT(name, type) ((type)dlsym(RTLD_NEXT, name))

#define OPEN(name)                                                        \
  int name(const char* path, int flags, ...) {                            \
    va_list list;                                                         \
    va_start(list, flags);                                                \
    const mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) != 0 ? va_arg(list, mode_t) : 0; \
    va_end(list);                                                         \
    if (is_camera(path)) return open_camera();                            \
    return NEXT(#name, int (*)(const char*, int, ...))(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define STAT(name, kind)                                            \
  int name(const char* path, struct kind* found) {                  \
    return NEXT(#name, int (*)(const char*, struct kind*))(is_camera(path) ? "/dev/null" : path, found); \
  }
STAT(stat, stat)
STAT(stat64, stat64)

static int refuse(int reason) {
  errno = reason;
  return -1;
}

static uint32_t fourcc(void) { return v4l2_fourcc(format[0], format[1], format[2], format[3]); }

static int describe(struct v4l2_capability* about) {
  memset(about, 0, sizeof *about);
  strcpy((char*)about->driver, "stand-in");
  strcpy((char*)about->card, "stand-in");
  about->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING | V4L2_CAP_DEVICE_CAPS;
  about->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
  return 0;
}

static int set_format(struct v4l2_format* about) {
  if (about->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return refuse(EINVAL);
  struct v4l2_pix_format* pix = &about->fmt.pix;
  memset(pix, 0, sizeof *pix);
  pix->width = width, pix->height = height, pix->pixelformat = fourcc();
  pix->field = V4L2_FIELD_NONE, pix->colorspace = V4L2_COLORSPACE_SRGB;
  pix->bytesperline = bytes / height, pix->sizeimage = bytes;
  return 0;
}

static int list_formats(struct v4l2_fmtdesc* about) {
  if (about->type != V4L2_BUF_TYPE_VIDEO_CAPTURE || about->index > 0) return refuse(EINVAL);
  about->pixelformat = fourcc();
  return 0;
}

static int list_sizes(struct v4l2_frmsizeenum* about) {
  if (about->index > 0) return refuse(EINVAL);
  about->type = V4L2_FRMSIZE_TYPE_DISCRETE;
  about->discrete.width = width, about->discrete.height = height;
  return 0;
}

static int list_intervals(struct v4l2_frmivalenum* about) {
  if (about->index > 0) return refuse(EINVAL);
  about->type = V4L2_FRMIVAL_TYPE_DISCRETE;
  about->discrete.numerator = 1, about->discrete.denominator = 10;
  return 0;
}

static int set_rate(struct v4l2_streamparm* about) {
  about->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
  about->parm.capture.timeperframe.numerator = 1, about->parm.capture.timeperframe.denominator = 10;
  return 0;
}

static int reserve(struct v4l2_requestbuffers* about) {
  if (about->memory != V4L2_MEMORY_MMAP) return refuse(EINVAL);
  if (about->count > kBuffers) about->count = kBuffers;
  about->capabilities = V4L2_BUF_CAP_SUPPORTS_MMAP;
  queued = 0;
  return 0;
}

static int locate(struct v4l2_buffer* buffer) {
  if (buffer->index >= kBuffers) return refuse(EINVAL);
  buffer->length = bytes, buffer->m.offset = (uint32_t)(buffer->index * page_bytes()), buffer->flags = 0;
  return 0;
}

static int give_back(struct v4l2_buffer* buffer) {
  for (int i = 0; i < queued; ++i) {
    if (queue[i] == (int)buffer->index) fail("a buffer is queued twice");
  }
  if (queued == kBuffers) fail("more buffers are queued than exist");
  queue[queued++] = (int)buffer->index;
  buffer->flags |= V4L2_BUF_FLAG_QUEUED;
  return 0;
}

static void advance(void) {
  if (due.tv_sec == 0) clock_gettime(CLOCK_MONOTONIC, &due);
  due.tv_nsec += kPeriod;
  if (due.tv_nsec >= 1000 * 1000 * 1000) due.tv_nsec -= 1000 * 1000 * 1000, ++due.tv_sec;
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
}

static int take(struct v4l2_buffer* buffer) {
  static uint8_t* picture;
  if (!streaming) fail("a buffer is taken before the camera streams");
  if (queued == 0) return refuse(EAGAIN);
  if (frames < 0) frames = open(getenv("CAMERA_FRAMES"), O_RDONLY);
  if (picture == NULL) picture = malloc(bytes);
  if (read(frames, picture, bytes) != (ssize_t)bytes) return refuse(ENODEV);
  advance();
  buffer->index = (uint32_t)queue[0];
  memmove(queue, queue + 1, sizeof *queue * (size_t)(--queued));
  locate(buffer);
  if (pwrite(device, picture, bytes, buffer->m.offset) != (ssize_t)bytes) fail("no memory");
  buffer->bytesused = bytes, buffer->sequence = sequence++, buffer->field = V4L2_FIELD_NONE;
  buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
  buffer->timestamp.tv_sec = due.tv_sec, buffer->timestamp.tv_usec = due.tv_nsec / 1000;
  return 0;
}

static int answer(unsigned long request, void* about) {
  switch (request) {
    case VIDIOC_QUERYCAP: return describe(about);
    case VIDIOC_ENUM_FMT: return list_formats(about);
    case VIDIOC_ENUM_FRAMESIZES: return list_sizes(about);
    case VIDIOC_ENUM_FRAMEINTERVALS: return list_intervals(about);
    case VIDIOC_G_FMT: case VIDIOC_S_FMT: case VIDIOC_TRY_FMT: return set_format(about);
    case VIDIOC_G_PARM: case VIDIOC_S_PARM: return set_rate(about);
    case VIDIOC_REQBUFS: return reserve(about);
    case VIDIOC_QUERYBUF: return locate(about);
    case VIDIOC_QBUF: return give_back(about);
    case VIDIOC_DQBUF: return take(about);
    case VIDIOC_STREAMON: streaming = 1; return 0;
    case VIDIOC_STREAMOFF: streaming = 0, queued = 0; return 0;
    default: return refuse(ENOTTY);
  }
}

/* Callers duplicate the descriptor. */
static int is_device(int fd) {
  struct stat ours, theirs;
  return device >= 0 && fstat(device, &ours) == 0 && fstat(fd, &theirs) == 0 && ours.st_ino == theirs.st_ino &&
         ours.st_dev == theirs.st_dev;
}

int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void* about = va_arg(list, void*);
  va_end(list);
  if (!is_device(fd)) return NEXT("ioctl", int (*)(int, unsigned long, ...))(fd, request, about);
  pthread_mutex_lock(&mutex);
  const int found = answer(request & 0xFFFFFFFFul, about);
  const int reason = errno;
  pthread_mutex_unlock(&mutex);
  errno = reason;
  return found;
}
